"""Run and sweep directories, the storage they may be copied to, and the copy."""
