#!/usr/bin/env python3
"""Makes schemas.json: the JSON Schemas (draft 2020-12) of the OCSF 1.8.0 classes that sensor emits.

    python3 -m venv v && v/bin/pip install ocsf-json-schema==1.2.0 && v/bin/python make.py > schemas.json

One schema for each class and each list of profiles that an event can have in `metadata.profiles`: attributes of a profile are
legal only in events that list it. Definitions of objects depend on the profiles only, and stand once for each list.
"""

import json
import sys

from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"
CLASSES = [
    "base_event",
    "file_activity",
    "kernel_extension_activity",
    "network_activity",
    "process_activity",
]
PROFILES = [
    ["host"],
    ["host", "container"],
    ["host", "linux/linux_users"],
    ["host", "container", "linux/linux_users"],
]


def main():
    made = OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION))
    out = {"version": VERSION, "classes": [], "definitions": {}}
    for profiles in PROFILES:
        key = ",".join(profiles)
        definitions = out["definitions"].setdefault(key, {})
        for name in CLASSES:
            schema = made.get_class_schema(name, profiles)
            for definition, value in schema.pop("$defs").items():
                if definitions.setdefault(definition, value) != value:
                    sys.exit(f"{definition} differs between classes")
            uid = schema["properties"]["class_uid"]["const"]
            out["classes"].append({"uid": uid, "profiles": key, "schema": schema})
    json.dump(out, sys.stdout, indent=None, separators=(",", ":"), sort_keys=True)
    print()


main()
