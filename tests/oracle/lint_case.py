"""How cases of the lint's table are written down: a config, a release, and the findings expected of it.

Findings are written "E rule path", "W rule path" or "N rule path" (error, warning, notice), in the order of the text.
"""

import copy

import deepspeed_releases as releases

ALL = releases.VERSIONS
NEWEST = ALL[-1]
SEVERITIES = {"E": "error", "W": "warning", "N": "notice"}
_CASES = []


def since(first):
    return ALL[ALL.index(first):]


def before(first):
    return ALL[:ALL.index(first)]


def case(name, config, *findings, versions=(NEWEST, ), world_size=None, resolved=True, model_spec=None, why=None):
    """A case for each of the releases; config is an object, or a text for a file."""
    row = {}
    if isinstance(config, str):
        row["text"] = config
    else:
        row["config"] = config
    row["world_size"] = world_size
    row["resolved"] = resolved
    if model_spec:
        row["model_spec"] = model_spec
    row["findings"] = [[path, rule, SEVERITIES[letter]] for letter, rule, path in
                       (finding.split(" ", 2) if finding.count(" ") > 1 else finding.split(" ") + [""]
                        for finding in findings)]
    if why:
        row["why"] = why
    for version in versions:
        _CASES.append({"id": f"{name}@{version}", "version": version, **copy.deepcopy(row)})


def rows():
    ids = [row["id"] for row in _CASES]
    assert len(ids) == len(set(ids)), "two cases with one id"
    return copy.deepcopy(_CASES)


def batch(**sections):
    """A config whose batch is in order at any world size."""
    return {"train_micro_batch_size_per_gpu": 1, **sections}


def zero(**keys):
    return batch(zero_optimization=keys)


def optimizer(kind, sections=None, **params):
    return batch(optimizer={"type": kind, "params": params}, **(sections or {}))


def scheduler(kind, **params):
    return batch(scheduler={"type": kind, "params": params})
