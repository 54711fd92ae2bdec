"""The fields of launch/sky.yaml and launch/gke.yaml, frozen from SkyPilot 0.14.1 and from the JobSet 0.12 CRD.

A dict lists the known fields of a mapping, those with a "!" are required; `{str: T}` is a mapping of any names; a list
is a list of its one item; a set has the allowed values; anything else is a type. Fields that the files do not use are
left out, so that a new one is looked up before it is used.
"""

from typing import Any

SKY = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "resources": {
        "infra": str,
        "accelerators": str,
        "accelerator_args": {"runtime_version": str, "tpu_vm": bool},
        "use_spot": bool,
        "job_recovery": {
            "strategy": {"FAILOVER", "EAGER_NEXT_REGION"},
            "max_restarts_on_errors": int,
            "recover_on_exit_codes": [int],
        },
    },
    "envs": {str: (str, type(None))},
    "file_mounts": {str: {"source": str, "mode": {"MOUNT", "COPY", "MOUNT_CACHED"}}},
    "setup": str,
    "run": str,
}

_CONTAINER = {
    "name!": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str}],
    "ports": [{"containerPort!": int}],
    "resources": {"limits": {str: (int, str)}},
    "securityContext": {"allowPrivilegeEscalation": bool, "runAsUser": int},
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}
_POD = {
    "restartPolicy": {"Never"},  # podFailurePolicy takes no other
    "terminationGracePeriodSeconds": int,
    "serviceAccountName": str,
    "nodeSelector": {str: str},
    "containers!": [_CONTAINER],
    "volumes": [{"name!": str, "csi": {"driver!": str, "volumeAttributes": {str: str}}}],
}
_POD_FAILURE_RULE = {
    "action!": {"FailJob", "FailIndex", "Ignore", "Count"},
    "onPodConditions": [{"type!": str, "status": str}],
    "onExitCodes": {"containerName": str, "operator!": {"In", "NotIn"}, "values!": [int]},
}
_JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules!": [_POD_FAILURE_RULE]},
    "template!": {"metadata": {"annotations": {str: str}}, "spec": _POD},
}
_FAILURE_RULE = {
    "name!": str,
    "action!": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
    "onJobFailureReasons": [{"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"}],
    "onJobFailureMessagePatterns": [str],
}
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": {"name!": str, "annotations": {str: str}},
    "spec!": {
        "failurePolicy": {"maxRestarts": int, "rules": [_FAILURE_RULE]},
        "replicatedJobs": [{"name!": str, "replicas": int, "template!": {"spec": _JOB}}],
    },
}


def problems(value: Any, schema: Any, path: str = "") -> list[str]:
    """Return the path of each part of `value` that `schema` does not allow.

    >>> problems({"a": {"b": "1"}, "d": 1}, {"a": {"b": int, "c!": str}})
    ['.a.c', '.a.b', '.d']
    """
    if isinstance(schema, set):
        return [] if value in schema else [path]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [path]
        return [found for index, item in enumerate(value) for found in problems(item, schema[0], f"{path}[{index}]")]
    if not isinstance(schema, dict):
        return [] if isinstance(value, schema) else [path]
    if not isinstance(value, dict):
        return [path]
    if str in schema:
        return [found for name, item in value.items() for found in problems(item, schema[str], f"{path}.{name}")]
    fields = {name.removesuffix("!"): field for name, field in schema.items()}
    found = [f"{path}.{name[:-1]}" for name in schema if name.endswith("!") and name[:-1] not in value]
    for name, item in value.items():
        found += problems(item, fields[name], f"{path}.{name}") if name in fields else [f"{path}.{name}"]
    return found
