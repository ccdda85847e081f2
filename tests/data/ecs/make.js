// Makes fields.json: every field of ECS 9.4.0 with its type, whether it is a list, and its allowed values.
//
//     npm pack @elastic/ecs@9.4.0 && tar xf elastic-ecs-9.4.0.tgz && node make.js > fields.json
const { EcsFlat, EcsVersion } = require("./package/build/commonjs/index.js");

const fields = {};
for (const [name, field] of Object.entries(EcsFlat)) {
  const kept = { type: field.type };
  if (field.normalize.includes("array")) kept.array = true;
  if (field.allowed_values) {
    kept.allowed = {};
    for (const value of field.allowed_values) kept.allowed[value.name] = value.expected_event_types ?? [];
  }
  fields[name] = kept;
}
const lines = Object.keys(fields).sort().map((name) => `${JSON.stringify(name)}:${JSON.stringify(fields[name])}`);
console.log(`{"version":${JSON.stringify(EcsVersion)},"fields":{\n${lines.join(",\n")}\n}}`);
