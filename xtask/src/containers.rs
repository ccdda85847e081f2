//! What is made for containers, judged by programs of others: image layouts by skopeo and umoci, manifests by kustomize and
//! the schemas of Kubernetes, their configuration by the sensor.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::command::{output, quiet};
use crate::container_tools::ContainerTools;
use crate::image::{self, Built, Source};
use crate::place::Place;
use crate::static_programs::StaticPrograms;

/// Versions of Kubernetes whose schemas every manifest fits: the oldest that knows all fields, and the newest.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];
/// Documents of a YAML stream as one JSON list.
const TO_JSON: &str = "import json, sys, yaml; \
    json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
/// Kinds that would give rights in the cluster; nothing of ours has any.
const RIGHTS: [&str; 4] = ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"];
/// The one overlay whose containers are privileged.
const PRIVILEGED: &str = "privileged";

/// The step of `cargo xtask test`.
pub(crate) fn check(place: &Place) -> anyhow::Result<()> {
    let programs = StaticPrograms::build(place, &BTreeSet::new())?;
    let tools = ContainerTools::find(place)?;
    images(place, &programs, &tools)?;
    manifests(place, &programs.sensor, &tools)
}

/// Makes the images twice, and has them read, converted and unpacked.
fn images(place: &Place, programs: &StaticPrograms, tools: &ContainerTools) -> anyhow::Result<()> {
    let work = tempfile::tempdir_in(&place.target)?;
    let source = Source::for_a_check(place);
    let first = image::build(place, programs, &work.path().join("first"), &source)?;
    let second = image::build(place, programs, &work.path().join("second"), &source)?;
    for (one, two) in first.iter().zip(&second) {
        ensure!(
            one.digest == two.digest && fs::read(&one.archive)? == fs::read(&two.archive)?,
            "{}: two builds differ",
            one.name
        );
        read_by_skopeo(one, tools, work.path())?;
        let root = unpack(one, tools, &work.path().join("unpacked"))?;
        let program = match one.name.as_str() {
            "sensor" => ("usr/sbin/sensor", &programs.sensor),
            _ => ("usr/bin/central-node", &programs.node),
        };
        let unpacked = root.join(program.0);
        ensure!(
            fs::read(&unpacked)? == fs::read(program.1)?,
            "{}: another program came out than went in",
            one.name
        );
        ensure!(
            fs::metadata(&unpacked)?.permissions().mode() & 0o7777 == 0o755,
            "{}: the mode of its program",
            one.name
        );
        let bill = root.join(format!("usr/share/doc/{0}/{0}.cdx.json", one.name));
        let bill = fs::read(&bill).with_context(|| bill.display().to_string())?;
        let bill: Value = serde_json::from_slice(&bill)?;
        ensure!(
            bill.get("bomFormat") == Some(&Value::from("CycloneDX"))
                && bill.pointer("/metadata/component/name")
                    == Some(&Value::from(one.name.as_str())),
            "{}: the bill of materials in it is another one's",
            one.name
        );
    }
    Ok(())
}

/// Layout and archive are the same image, and every digest in them is right: skopeo checks them as it copies.
fn read_by_skopeo(image: &Built, tools: &ContainerTools, work: &Path) -> anyhow::Result<()> {
    let layout = format!("oci:{}:{}", image.layout.display(), image.version);
    let archive = format!("oci-archive:{}:{}", image.archive.display(), image.version);
    for (from, name) in [(&layout, "layout"), (&archive, "archive")] {
        let told = output(tools.skopeo()?.arg("inspect").arg(from))?;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(
            told.get("Digest").and_then(Value::as_str) == Some(image.digest.as_str()),
            "{from}: skopeo sees another digest than {}: {told}",
            image.digest
        );
        let label = told.pointer("/Labels/org.opencontainers.image.version");
        ensure!(
            label.and_then(Value::as_str) == Some(image.version.as_str()),
            "{from}: skopeo sees no version"
        );
        let copy = work.join(format!("{}-{name}", image.name));
        let to = format!("dir:{}", copy.display());
        quiet(tools.skopeo()?.arg("copy").arg(from).arg(to))?;
        fs::remove_dir_all(copy)?;
    }
    Ok(())
}

/// Unpacks an image as an engine would; gives the root.
fn unpack(image: &Built, tools: &ContainerTools, into: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(into)?;
    let bundle = into.join(&image.name);
    quiet(
        tools
            .umoci()?
            .args(["unpack", "--rootless", "--image"])
            .arg(format!("{}:{}", image.layout.display(), image.version))
            .arg(&bundle),
    )?;
    Ok(bundle.join("rootfs"))
}

/// What a guest needs to run the sensor's image as the manifests say.
#[derive(Debug)]
pub(crate) struct Container {
    /// The root of the sensor's image, as umoci has unpacked it.
    pub(crate) root: PathBuf,
    /// The documents of the default overlay, a JSON list.
    pub(crate) overlay: String,
    /// Holds the root.
    _folder: tempfile::TempDir,
}

impl Container {
    /// Makes, unpacks and renders.
    pub(crate) fn prepare(place: &Place, programs: &StaticPrograms) -> anyhow::Result<Self> {
        let tools = ContainerTools::find(place)?;
        let folder = tempfile::tempdir_in(&place.target)?;
        let source = Source::for_a_check(place);
        let images = image::build(place, programs, &folder.path().join("images"), &source)?;
        let sensor = images.first().context("the sensor's image")?;
        let root = unpack(sensor, &tools, &folder.path().join("unpacked"))?;
        let rendered = folder.path().join("overlay.yaml");
        render(place, "default", &tools, &rendered)?;
        Ok(Self {
            root,
            overlay: to_json(&tools, &rendered)?,
            _folder: folder,
        })
    }
}

fn overlays(place: &Place) -> PathBuf {
    place.root.join("packaging/kubernetes/overlays")
}

fn render(place: &Place, name: &str, tools: &ContainerTools, to: &Path) -> anyhow::Result<()> {
    let mut kustomize = tools.kustomize()?;
    kustomize.arg("build").arg(overlays(place).join(name));
    Ok(fs::write(to, output(&mut kustomize)?)?)
}

fn to_json(tools: &ContainerTools, rendered: &Path) -> anyhow::Result<String> {
    output(tools.python()?.args(["-c", TO_JSON]).arg(rendered))
}

/// Renders every overlay and checks what comes out.
fn manifests(place: &Place, sensor: &Path, tools: &ContainerTools) -> anyhow::Result<()> {
    let overlays = overlays(place);
    let docs = fs::read_to_string(place.root.join("docs/kubernetes.md"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&overlays).with_context(|| overlays.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let work = tempfile::tempdir_in(&place.target)?;
    for name in &names {
        let rendered = work.path().join(format!("{name}.yaml"));
        render(place, name, tools, &rendered)?;
        for version in KUBERNETES {
            quiet(
                tools
                    .python()?
                    .args(["-m", "kubernetes_validate", "--strict", "--quiet", "-k"])
                    .arg(version)
                    .arg(&rendered),
            )
            .with_context(|| format!("overlay {name}, Kubernetes {version}"))?;
        }
        let documents: Vec<Value> = serde_json::from_str(&to_json(tools, &rendered)?)?;
        overlay(name, &documents, &docs).with_context(|| format!("overlay {name}"))?;
        for (file, text) in settings(&documents) {
            let path = work.path().join(&file);
            fs::write(&path, text)?;
            quiet(
                Command::new(sensor)
                    .arg("--config")
                    .arg(&path)
                    .args(["config", "check"]),
            )
            .with_context(|| format!("overlay {name}, {file}"))?;
        }
        ensure!(
            docs.contains(&format!("`{name}`")),
            "docs/kubernetes.md does not have the overlay `{name}`"
        );
    }
    Ok(())
}

/// The sensor's configuration in the ConfigMaps of an overlay.
fn settings(documents: &[Value]) -> Vec<(String, String)> {
    documents
        .iter()
        .filter(|document| kind(document) == "ConfigMap")
        .filter_map(|map| map.get("data")?.as_object())
        .flatten()
        .filter(|(name, _)| name.ends_with(".toml"))
        .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
        .collect()
}

fn kind(document: &Value) -> &str {
    document
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// What schemas do not say and every overlay keeps to.
fn overlay(name: &str, documents: &[Value], docs: &str) -> anyhow::Result<()> {
    let mut sensors = 0;
    for document in documents {
        let kind = kind(document);
        ensure!(!RIGHTS.contains(&kind), "a {kind}");
        if kind == "ServiceAccount" {
            ensure!(
                document.get("automountServiceAccountToken") == Some(&Value::Bool(false)),
                "a service account whose token is mounted"
            );
        }
        let Some(pod) = document.pointer("/spec/template/spec") else {
            continue;
        };
        ensure!(
            pod.get("automountServiceAccountToken") == Some(&Value::Bool(false)),
            "a pod with a token"
        );
        let containers = pod.get("containers").and_then(Value::as_array);
        for container in containers.into_iter().flatten() {
            confined(container, name == PRIVILEGED && kind == "DaemonSet", docs)?;
        }
        if kind == "DaemonSet" {
            sensors += 1;
            ensure!(
                pod.pointer("/tolerations/0") == Some(&serde_json::json!({ "operator": "Exists" })),
                "nodes that are left out"
            );
            ensure!(pod.get("hostPID") == Some(&Value::Bool(true)), "no hostPID");
        }
    }
    ensure!(sensors == 1, "{sensors} DaemonSets");
    Ok(())
}

fn confined(container: &Value, privileged: bool, docs: &str) -> anyhow::Result<()> {
    let at = |path: &str| container.pointer(path).cloned().unwrap_or_default();
    let image = at("/image");
    let tag = image.as_str().and_then(|image| image.rsplit_once(':'));
    ensure!(
        tag.is_some_and(|(_, tag)| tag == env!("CARGO_PKG_VERSION")),
        "image {image}: not this version"
    );
    ensure!(
        at("/securityContext/readOnlyRootFilesystem") == Value::Bool(true),
        "a root that can be written"
    );
    for path in [
        "/resources/requests/cpu",
        "/resources/requests/memory",
        "/resources/limits/memory",
        "/livenessProbe",
    ] {
        ensure!(!at(path).is_null(), "no {path}");
    }
    ensure!(
        at("/securityContext/privileged").as_bool().unwrap_or(false) == privileged,
        "privileged where it should not be, or the other way round"
    );
    if privileged {
        return Ok(());
    }
    ensure!(
        at("/securityContext/allowPrivilegeEscalation") == Value::Bool(false),
        "privileges can be gained"
    );
    ensure!(
        at("/securityContext/capabilities/drop/0") == "ALL",
        "capabilities are not dropped"
    );
    ensure!(
        !at("/securityContext/seccompProfile/type").is_null(),
        "no word about seccomp"
    );
    let added = at("/securityContext/capabilities/add");
    for capability in added.as_array().into_iter().flatten() {
        let capability = capability.as_str().unwrap_or_default();
        if !docs.contains(&format!("`{capability}`")) {
            bail!("docs/kubernetes.md does not say what `{capability}` is for");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "kind": "DaemonSet",
            "spec": { "template": { "spec": {
                "automountServiceAccountToken": false,
                "hostPID": true,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{
                    "image": format!("localhost/sensor:{}", env!("CARGO_PKG_VERSION")),
                    "livenessProbe": { "exec": { "command": ["x"] } },
                    "resources": {
                        "requests": { "cpu": "1m", "memory": "1Mi" },
                        "limits": { "memory": "1Mi" },
                    },
                    "securityContext": {
                        "readOnlyRootFilesystem": true,
                        "allowPrivilegeEscalation": false,
                        "capabilities": { "drop": ["ALL"], "add": ["BPF"] },
                        "seccompProfile": { "type": "Unconfined" },
                    },
                }],
            }}},
        })
    }

    fn check(change: impl Fn(&mut Value), expected: &str) {
        let mut document = good();
        change(&mut document);
        let told = overlay("default", &[document], "`BPF`")
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert_eq!(told, expected);
    }

    #[test]
    fn what_an_overlay_must_not_have_is_told() {
        let container = "/spec/template/spec/containers/0";
        let set = |path: &str, value: Value| {
            let path = format!("{container}{path}");
            move |document: &mut Value| *document.pointer_mut(&path).unwrap() = value.clone()
        };
        check(|_| {}, "");
        check(
            |document| document["kind"] = json!("ClusterRole"),
            "a ClusterRole",
        );
        check(
            set("/image", json!("localhost/sensor:0.0.1")),
            "image \"localhost/sensor:0.0.1\": not this version",
        );
        check(
            set("/securityContext/capabilities/add", json!(["SYS_ADMIN"])),
            "docs/kubernetes.md does not say what `SYS_ADMIN` is for",
        );
        check(
            set("/securityContext/readOnlyRootFilesystem", json!(false)),
            "a root that can be written",
        );
        check(
            set("/resources/limits", json!({})),
            "no /resources/limits/memory",
        );
        check(
            |document| {
                document["spec"]["template"]["spec"]["automountServiceAccountToken"] = json!(true)
            },
            "a pod with a token",
        );
        assert!(overlay("privileged", &[good()], "`BPF`").is_err());
        assert!(overlay("default", &[], "").is_err());
    }

    #[test]
    fn the_configuration_of_an_overlay_is_found() {
        let map = json!({ "kind": "ConfigMap", "data": { "a.toml": "x = 1", "b.txt": "y" } });
        assert_eq!(
            settings(&[good(), map]),
            [("a.toml".to_owned(), "x = 1".to_owned())]
        );
    }
}
