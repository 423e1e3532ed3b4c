// Fewer points of a curve: of each pixel column the least and the greatest value are kept.

/**
 * Positions and columns within a range, thinned to `width` pixel columns.
 *
 * @param xs positions, ascending
 * @param columns values by series, null where there is none
 * @param range first and last position
 * @param width number of pixel columns
 */
export function thinned(xs, columns, [first, last], width) {
  let begin = 0;
  while (begin < xs.length && xs[begin] < first) begin += 1;
  let end = xs.length;
  while (end > begin && xs[end - 1] > last) end -= 1;
  begin = Math.max(0, begin - 1); // the line goes on to the neighbors outside
  end = Math.min(xs.length, end + 1);
  if (end - begin <= 2 * width || width < 1) {
    return { xs: xs.slice(begin, end), columns: columns.map((c) => c.slice(begin, end)), dropped: 0 };
  }
  const span = (last - first) / width || 1;
  const kept = new Set([begin, end - 1]);
  let from = begin;
  while (from < end) {
    const column = Math.floor((xs[from] - first) / span);
    let to = from + 1;
    while (to < end && Math.floor((xs[to] - first) / span) === column) to += 1;
    for (const values of columns) keepExtremes(values, from, to, kept);
    from = to;
  }
  const places = [...kept].sort((a, b) => a - b);
  return {
    xs: places.map((place) => xs[place]),
    columns: columns.map((values) => places.map((place) => values[place])),
    dropped: end - begin - places.length,
  };
}

function keepExtremes(values, from, to, kept) {
  let least = -1;
  let greatest = -1;
  for (let place = from; place < to; place += 1) {
    const value = values[place];
    if (value === null || value === undefined) continue;
    if (least < 0 || value < values[least]) least = place;
    if (greatest < 0 || value > values[greatest]) greatest = place;
  }
  if (least < 0) {
    kept.add(from); // a gap stays a gap
  } else {
    kept.add(least);
    kept.add(greatest);
  }
}
