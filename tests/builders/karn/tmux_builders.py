"""A terminal for programs, by tmux: keys are sent, the screen is read, the size changes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid

import pytest

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: apt-get install tmux")
ESPER = f"{shlex.quote(sys.executable)} -m esper_ray"
PROMPT = "ready>"
MOST_SECONDS = 60.0
POLL_SECONDS = 0.05


class Terminal:
    """A shell in a terminal of 80x24, with a tmux server of its own."""

    def __init__(self, folder, size=(80, 24)):
        self._name, self._folder, self._size = f"esper-{uuid.uuid4().hex[:8]}", folder, size

    def __enter__(self):
        width, height = map(str, self._size)
        environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        start = ["new-session", "-d", "-x", width, "-y", height, "-c", str(self._folder), "env", f"PS1={PROMPT} ", "sh"]
        self._tmux("-f", "/dev/null", *start, env=environment)
        self.wait_for(PROMPT)
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the terminal: its programs receive SIGHUP."""
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)

    def _tmux(self, *words, **settings):
        command = ["tmux", "-L", self._name, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, **settings).stdout

    def run(self, command):
        """Type a command on a clear screen. Its exit code is printed when it has ended."""
        self._tmux("send-keys", "-l", f"clear; {command}; echo exit code $?")
        self.press("Enter")

    def press(self, *keys):
        """Press keys, by their names in tmux."""
        self._tmux("send-keys", *keys)

    def screen(self):
        """The text on the screen."""
        return self._tmux("capture-pane", "-p")

    def resize(self, width, height):
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def modes(self):
        """Whether the alternate screen, the cursor, and reports of the mouse are on; and the settings of the line."""
        flags = self._tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}").split()
        tty = self._tmux("display-message", "-p", "#{pane_tty}").strip()
        line = subprocess.run(["stty", "-a", "-F", tty], capture_output=True, text=True, check=True).stdout
        return [flag == "1" for flag in flags], line

    def wait_for(self, text, seconds=MOST_SECONDS):
        """The screen, as soon as it shows ``text``."""
        end = time.monotonic() + seconds
        while text not in (screen := self.screen()):
            assert time.monotonic() < end, f"{text!r} is not on the screen:\n{screen}"
            time.sleep(POLL_SECONDS)
        return screen

    def exit_code(self):
        """Exit code of the command, when it has ended."""
        end = time.monotonic() + MOST_SECONDS
        while (found := re.search(r"^exit code (\d+)$", screen := self.screen(), re.MULTILINE)) is None:
            assert time.monotonic() < end, f"the command has not ended:\n{screen}"
            time.sleep(POLL_SECONDS)
        return int(found[1])
