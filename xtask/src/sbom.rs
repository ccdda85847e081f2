//! The bill of materials of a released program: CycloneDX 1.6, from what cargo says that the program is made of. The same
//! sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::command::output;
use crate::place::{Place, Toolchain};

/// What `cargo metadata` says, as far as it matters.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    /// None: of this repository.
    source: Option<String>,
    manifest_path: PathBuf,
}

/// A library of others that is linked into a released program.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As its manifest says; empty: it does not.
    pub(crate) licence: String,
    /// Its sources.
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// None: of the program itself, not of its build or its tests.
    kind: Option<String>,
}

/// A lock file, as far as it matters.
#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// SHA-256 of each crate's archive, by name and version.
type Checksums = BTreeMap<(String, String), String>;

/// Everything that the bill names beside the program itself, by reference.
#[derive(Debug, Default)]
struct Parts {
    libraries: BTreeMap<String, Library>,
    components: BTreeMap<String, Value>,
    needs: BTreeMap<String, BTreeSet<String>>,
}

/// The bill of a program of this workspace, statically linked for this machine's target, as indented JSON. The sensor's has the
/// crates of its eBPF object as well. `seconds`: the time that it bears, since 1970.
pub(crate) fn cyclonedx(place: &Place, program: &str, seconds: i64) -> anyhow::Result<String> {
    let toolchain = Toolchain::find(place)?;
    let target = toolchain.host;
    let mut parts = Parts::default();
    let root = parts.add(&place.root, &target, program)?;
    if program == "sensor" {
        let object = parts.add(&place.root.join("sensor-ebpf"), &target, "sensor-ebpf")?;
        parts.needs.entry(root.clone()).or_default().insert(object);
    }
    parts.link(&root, "rust-std", &toolchain.release, "MIT OR Apache-2.0");
    parts.link(&root, "glibc", &libc_version()?, "LGPL-2.1-or-later");
    let when = OffsetDateTime::from_unix_timestamp(seconds)?.format(&Rfc3339)?;
    let bill = parts.bill(&root, &when)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&bill)?))
}

/// The libraries of others in all released programs, by name and version.
pub(crate) fn libraries(place: &Place) -> anyhow::Result<Vec<Library>> {
    let target = Toolchain::find(place)?.host;
    let mut parts = Parts::default();
    for (workspace, package) in [
        ("", "sensor"),
        ("", "central-node"),
        ("sensor-ebpf", "sensor-ebpf"),
    ] {
        parts.add(&place.root.join(workspace), &target, package)?;
    }
    Ok(parts.libraries.into_values().collect())
}

impl Parts {
    /// Adds a package and all that ends up in its program; gives its reference.
    fn add(&mut self, workspace: &Path, target: &str, package: &str) -> anyhow::Result<String> {
        let text = output(
            Command::new("cargo")
                .args(["metadata", "--locked", "--format-version", "1"])
                .args(["--filter-platform", target])
                .current_dir(workspace),
        )?;
        let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
        let lock = fs::read_to_string(workspace.join("Cargo.lock"))?;
        let lock: Lock = toml::from_str(&lock).context("Cargo.lock")?;
        let checksums = lock
            .package
            .into_iter()
            .filter_map(|one| Some(((one.name, one.version), one.checksum?)))
            .collect();
        self.walk(&metadata, &checksums, package)
    }

    fn walk(
        &mut self,
        metadata: &Metadata,
        checksums: &Checksums,
        package: &str,
    ) -> anyhow::Result<String> {
        let packages: BTreeMap<&str, &Package> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package))
            .collect();
        let nodes: BTreeMap<&str, &Node> = metadata
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let of = |id: &str| packages.get(id).copied().with_context(|| id.to_owned());
        let root = metadata
            .packages
            .iter()
            .find(|one| one.name == package && one.source.is_none())
            .with_context(|| format!("no package {package} in the workspace"))?;
        let mut open = vec![root.id.as_str()];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let package = of(id)?;
            let reference = purl(&package.name, &package.version);
            let checksum = checksums.get(&(package.name.clone(), package.version.clone()));
            self.components
                .insert(reference.clone(), component(package, checksum));
            if package.source.is_some() {
                let folder = package.manifest_path.parent();
                let library = Library {
                    name: package.name.clone(),
                    version: package.version.clone(),
                    licence: package.license.clone().unwrap_or_default(),
                    folder: folder.context("a manifest's folder")?.to_owned(),
                };
                self.libraries.insert(reference.clone(), library);
            }
            let needs = self.needs.entry(reference).or_default();
            let node = nodes.get(id).with_context(|| id.to_owned())?;
            for dependency in &node.deps {
                if dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()) {
                    let needed = of(&dependency.pkg)?;
                    needs.insert(purl(&needed.name, &needed.version));
                    open.push(&dependency.pkg);
                }
            }
        }
        Ok(purl(&root.name, &root.version))
    }

    /// Adds a library that the compiler links into the program.
    fn link(&mut self, root: &str, name: &str, version: &str, license: &str) {
        let reference = format!("pkg:generic/{name}@{version}");
        let component = json!({
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "licenses": [{"expression": license}],
        });
        self.needs
            .entry(root.to_owned())
            .or_default()
            .insert(reference.clone());
        self.needs.entry(reference.clone()).or_default();
        self.components.insert(reference, component);
    }

    /// The document.
    fn bill(mut self, root: &str, when: &str) -> anyhow::Result<Value> {
        let mut main = self.components.remove(root).context("the program itself")?;
        put(&mut main, "type", "application".into());
        let components: Vec<&Value> = self.components.values().collect();
        let dependencies: Vec<Value> = self
            .needs
            .iter()
            .map(|(reference, needs)| json!({"ref": reference, "dependsOn": needs}))
            .collect();
        let mut bill = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": when,
                "lifecycles": [{"phase": "build"}],
                "tools": {"components": [{
                    "type": "application",
                    "name": "cargo xtask",
                    "version": env!("CARGO_PKG_VERSION"),
                }]},
                "component": main,
            },
            "components": components,
            "dependencies": dependencies,
        });
        // A number of its own that the same content gives again.
        let digest = Sha256::digest(serde_json::to_vec(&bill)?);
        let serial = format!("urn:uuid:{}", uuid(&digest)?);
        put(&mut bill, "serialNumber", serial.into());
        Ok(bill)
    }
}

fn purl(name: &str, version: &str) -> String {
    // A `+` of build metadata must be written as its code.
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn component(package: &Package, checksum: Option<&String>) -> Value {
    let reference = purl(&package.name, &package.version);
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
        "scope": "required",
    });
    if let Some(description) = &package.description {
        let words: Vec<&str> = description.split_whitespace().collect();
        put(&mut component, "description", words.join(" ").into());
    }
    if let Some(license) = &package.license {
        // Old crates write a stroke for "or".
        let expression = license.replace(" / ", "/").replace('/', " OR ");
        let licences = json!([{"expression": expression}]);
        put(&mut component, "licenses", licences);
    }
    if let Some(checksum) = checksum {
        let hashes = json!([{"alg": "SHA-256", "content": checksum}]);
        put(&mut component, "hashes", hashes);
    }
    if let Some(repository) = &package.repository {
        let references = json!([{"type": "vcs", "url": repository}]);
        put(&mut component, "externalReferences", references);
    }
    component
}

/// Sets a member of an object.
fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

/// A UUID of version 8, "what the vendor likes", of the first bytes of a digest.
fn uuid(digest: &[u8]) -> anyhow::Result<String> {
    let mut bytes: [u8; 16] = digest.get(..16).context("a digest")?.try_into()?;
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// `2.36` of `glibc 2.36`: the C library that is linked in.
fn libc_version() -> anyhow::Result<String> {
    let text = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let version = text.trim().strip_prefix("glibc ");
    let version = version.context("the C library is not glibc")?;
    ensure!(!version.is_empty(), "glibc says no version");
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bill(program: &str) -> (String, Value) {
        let place = Place::find().unwrap();
        let text = cyclonedx(&place, program, 1_700_000_000).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    /// What the schema of CycloneDX 1.6 requires, and what a bill is for.
    fn check(bill: &Value) -> BTreeSet<String> {
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["specVersion"], "1.6");
        assert_eq!(bill["version"], 1);
        assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        let serial = bill["serialNumber"].as_str().unwrap();
        let form = serial.strip_prefix("urn:uuid:").unwrap();
        let lengths: Vec<usize> = form.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(
            form.chars()
                .all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
        );
        let main = &bill["metadata"]["component"];
        assert_eq!(main["type"], "application");
        let mut references = BTreeSet::new();
        for component in bill["components"].as_array().unwrap().iter().chain([main]) {
            for required in ["type", "name", "version", "bom-ref", "purl"] {
                let value = component[required].as_str().unwrap_or_default();
                assert!(!value.is_empty(), "{required} of {component}");
            }
            assert!(component["licenses"][0]["expression"].is_string());
            let own = component["purl"]
                .as_str()
                .unwrap()
                .starts_with("pkg:cargo/sensor");
            let crates = component["purl"]
                .as_str()
                .unwrap()
                .starts_with("pkg:cargo/");
            let checksum = component["hashes"][0]["content"].as_str();
            let own = own || component["name"] == "central-node";
            assert_eq!(checksum.is_some(), crates && !own, "{component}");
            assert!(checksum.is_none_or(|hex| hex.len() == 64));
            let reference = component["bom-ref"].as_str().unwrap().to_owned();
            assert!(references.insert(reference), "twice: {component}");
        }
        for dependency in bill["dependencies"].as_array().unwrap() {
            assert!(references.contains(dependency["ref"].as_str().unwrap()));
            for needed in dependency["dependsOn"].as_array().unwrap() {
                assert!(references.contains(needed.as_str().unwrap()), "{needed}");
            }
        }
        references
    }

    #[test]
    fn the_bill_of_the_sensor_is_whole_and_the_same_every_time() {
        let (text, value) = bill("sensor");
        let references = check(&value);
        let has = |prefix: &str| references.iter().any(|one| one.starts_with(prefix));
        for part in [
            "pkg:cargo/sensor@",
            "pkg:cargo/sensor-ebpf@",
            "pkg:cargo/aya@",
            // Of the programs in the kernel.
            "pkg:cargo/aya-ebpf@",
            "pkg:generic/glibc@",
            "pkg:generic/rust-std@1.",
        ] {
            assert!(has(part), "{part}");
        }
        // Tests and builds are not shipped, nor is the central node.
        for part in [
            "pkg:cargo/proptest@",
            "pkg:cargo/protox@",
            "pkg:cargo/rusqlite@",
        ] {
            assert!(!has(part), "{part}");
        }
        assert_eq!(text, bill("sensor").0);
    }

    #[test]
    fn the_bill_of_the_central_node_has_its_database() {
        let references = check(&bill("central-node").1);
        assert!(
            references
                .iter()
                .any(|one| one.starts_with("pkg:cargo/libsqlite3-sys@"))
        );
        assert!(
            !references
                .iter()
                .any(|one| one.starts_with("pkg:cargo/aya@"))
        );
    }
}
