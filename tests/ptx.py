"""PTX as text: where control comes to."""

import re


def reached(lines, *stops):
    """The lines that control comes to from the first, and goes past none that has a stop."""
    at = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith("$L")}
    seen, todo = set(), [0]
    while todo:
        i = todo.pop()
        if i in seen or i >= len(lines):
            continue
        seen.add(i)
        line = lines[i].split("//")[0].strip()
        if any(stop in line for stop in stops):
            continue
        jump = re.search(r"(?:^|\s)(bra|brx)\S*\s.*?(\$L\w+);", line)
        if jump is not None and jump[1] == "bra":
            todo.append(at[jump[2]])
        if jump is not None and jump[1] == "brx":
            table = "".join(lines[i - 20 : i]).partition(f"{jump[2]}: .branchtargets")[2]
            todo += [at[label] for label in re.findall(r"\$L\w+", table)]
        always = jump is not None and not line.startswith("@")
        if not always and not re.match(r"(ret|exit|trap)\b", line):
            todo.append(i + 1)
    return seen
