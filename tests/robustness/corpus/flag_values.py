"""Values that options of the command line cannot have."""

COUNTS = (
    "",
    "x",
    "-1",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "0x10",
    "½",
    "\u0661\u0662",
    "9" * 5000,
    "1 2",
    "true",
    "null",
    "--",
    "1,2",
)
POSITIVE = (*COUNTS, "0", "-0", str(10**30))
NAMES = ("", "digitz", "DIGITS", "dig its", "../digits", "ä" * 300, "d\u0301igits", "0", "*", "digits\n", "\x1b[31mred")
DEVICES = ("", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99", "cpu:0", "tpu:0", "CPU", "cuda:1.5", "mps", "cpu;ls")
SLOTS = ("", "r9c9", "r0", "r-1c0", "r0c0,r0c0", "R0C0", "r0c0 ", "r0c" + "9" * 400, "first", "r0c\u0660", "*")
RUN_IDS = ("", ".", "..", "../x", "a/b", "a b", "-x", "ä", "a" * 101, "a\nb", "~", "$HOME", "nul\u200b", ".hidden")
URIS = ("s3://bucket/x", "file:///tmp/x", "gs:/a/b", "https://user:secret@host/x", "s3:///x", "HDFS://a/b")
PATHS = ("/proc/x", "/dev/null/x", "run/manifest.json", "a" * 300, "/" + "d/" * 3000, *URIS)
"""Folders that cannot be written, and URIs, of which no path of this machine may be made."""
FILES = ("", "nowhere.yaml", "run", "/dev/zero", "/proc/self/mem", "a" * 5000, "run/rounds.csv")
URLS = (
    "",
    "x",
    "ftp://x",
    "http://",
    "http://[::1",
    "http://a:99999",
    "http://a:b",
    "http://:80",
    "file:///etc/passwd",
)
KEYS = (
    "", "=", "=1", "ppo.lr", "ppo.lr=", "ppo.lr=x", "ppo.lr=.nan", "ppo.lr=1e999", "ppo.lr=-1", "ppo.lr=true", "ppo=5",
    "ppo.lr.x=1", "ppo..lr=1", ".ppo=1", "ppo.=1", "nope=1", "ppo.lrr=1", "ppo.rounds=1.0", "preset=digits",
    "ppo.rounds='1'", "ppo={lr: 1, lr: 2}", "ppo=[1", "ppo={", "growth.slots=r0c0", "growth.slots=[]", "seed=null",
    "host.blocks=99999999", "policy.memory_size=99999999", "episode_length=" + "9" * 30, "name=", "name=a b",
    "system.threads=0", "system.devices=[]", "task.block_size=0", "schema_version=2", "ppo.lr=" + "[" * 5000,
    "growth.blueprints=[lora]", "reward.mode=basik", "reward.family=los", "\ud83d=1", "ppo.lr=\u0661", "a" * 9000,
)  # fmt: skip
FLOATS = ("", "x", "-1", "nan", "inf", "1e999", "\u0663", "0.5.5", "1,5")
FORMATS = ("", "xml", "JSON", "table ", "json\n", "j" * 5000)
