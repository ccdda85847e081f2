//! `cargo xtask image`: container images of the sensor and of the central node, from scratch, without a container engine.

pub(crate) mod layout;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::archive::{Tree, gz};
use crate::command::output;
use crate::containers;
use crate::dist::licences;
use crate::image::layout::{About, Layout};
use crate::place::{Place, Toolchain};
use crate::sbom;
use crate::static_programs::StaticPrograms;

/// Who the central node is in its image: nobody in particular, but not root.
const NODE_USER: u32 = 65532;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the images; target/image without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write nothing there; judge the images and the manifests of packaging/kubernetes, as `cargo xtask test` does.
    #[arg(long, conflicts_with = "out")]
    check: bool,
}

/// An image that was written.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) name: String,
    /// Tag.
    pub(crate) version: String,
    /// The image layout, a folder.
    pub(crate) layout: PathBuf,
    /// The same as one file.
    pub(crate) archive: PathBuf,
    /// Digest of the manifest.
    pub(crate) digest: String,
}

/// The task.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    if args.check {
        return containers::check(place);
    }
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => place.target.join("image"),
    };
    let programs = StaticPrograms::release(place)?;
    for image in build(place, &programs, &out, &Source::find(place)?)? {
        println!(
            "{}:{} {}\n  layout  {}\n  archive {}",
            image.name,
            image.version,
            image.digest,
            image.layout.display(),
            image.archive.display()
        );
    }
    Ok(())
}

/// Makes both images from programs that are there already.
pub(crate) fn build(
    place: &Place,
    programs: &StaticPrograms,
    out: &Path,
    source: &Source,
) -> anyhow::Result<Vec<Built>> {
    let architecture = architecture(&Toolchain::find(place)?.host)?;
    fs::create_dir_all(out)?;
    let licences = gz(licences::texts(place)?.as_bytes())?;
    let shared = |name: &str, users: &[(&str, u32)]| {
        let bill = sbom::cyclonedx(place, name, source.time.try_into()?)?;
        common(place, name, users, bill, &licences)
    };
    let images = [
        (
            "sensor",
            "Endpoint telemetry sensor: programs, files, connections and kernel modules by eBPF",
            sensor(place, &programs.sensor, shared("sensor", &[("root", 0)])?)?,
            json!({
                // Its capabilities are what confines it, see docs/kubernetes.md; uid 0 owns what it reads of the host.
                "User": "0:0",
                "Env": ["PATH=/usr/sbin:/usr/bin"],
                "Entrypoint": ["/usr/sbin/sensor"],
                "Volumes": { "/var/lib/sensor": {} },
                "WorkingDir": "/",
                "StopSignal": "SIGTERM",
            }),
        ),
        (
            "central-node",
            "Reference receiver of the sensor's telemetry packets",
            node(
                place,
                &programs.node,
                shared("central-node", &[("root", 0), ("central-node", NODE_USER)])?,
            )?,
            json!({
                "User": format!("{NODE_USER}:{NODE_USER}"),
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": ["/usr/bin/central-node"],
                "Cmd": ["serve", "--config", "/etc/central-node/central-node.toml"],
                "ExposedPorts": { "7443/tcp": {} },
                "Volumes": { "/var/lib/central-node": {} },
                "WorkingDir": "/",
                "StopSignal": "SIGTERM",
            }),
        ),
    ];
    images
        .into_iter()
        .map(|(name, description, tree, run)| {
            let about = About {
                name: name.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                architecture,
                time: source.time,
                labels: source.labels(name, description),
                run,
            };
            write(&tree, &about, out)
        })
        .collect()
}

fn write(tree: &Tree, about: &About, out: &Path) -> anyhow::Result<Built> {
    let image = Layout::new(tree, about)?;
    let built = Built {
        name: about.name.clone(),
        version: about.version.clone(),
        layout: out.join(&about.name),
        archive: out.join(format!(
            "{}-{}-{}.oci.tar",
            about.name, about.version, about.architecture
        )),
        digest: image.digest.clone(),
    };
    image.write(&built.layout)?;
    image.archive(&built.archive)?;
    Ok(built)
}

/// What both images have: names of users, a folder for temporary files, licences, a bill of materials. The bill lies where the package
/// has it: in the image it goes wherever the image goes, and programs that look for such files in images find it by its ending.
fn common(
    place: &Place,
    name: &str,
    users: &[(&str, u32)],
    bill: String,
    licences: &[u8],
) -> anyhow::Result<Tree> {
    let mut tree = Tree::default();
    let (mut passwd, mut group) = (String::new(), String::new());
    for (user, id) in users {
        passwd.push_str(&format!("{user}:x:{id}:{id}:{user}:/:/sbin/nologin\n"));
        group.push_str(&format!("{user}:x:{id}:\n"));
    }
    tree.file("/etc/passwd", 0o644, passwd)?;
    tree.file("/etc/group", 0o644, group)?;
    tree.folder("/tmp", 0o1777)?;
    let doc = |file: &str| format!("/usr/share/doc/{name}/{file}");
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        tree.copy(&doc(licence), 0o644, &place.root.join(licence))?;
    }
    tree.file(&doc("third-party-licences.gz"), 0o644, licences)?;
    tree.file(&doc(&format!("{name}.cdx.json")), 0o644, bill)?;
    Ok(tree)
}

fn sensor(place: &Place, program: &Path, mut tree: Tree) -> anyhow::Result<Tree> {
    tree.copy("/usr/sbin/sensor", 0o755, program)?;
    // Mount points: a root that is read-only gets no new ones.
    tree.folder("/etc/sensor/conf.d", 0o755)?;
    tree.folder("/etc/sensor/tls", 0o755)?;
    tree.folder("/host", 0o755)?;
    tree.folder("/run/sensor", 0o700)?;
    tree.folder("/var/lib/sensor", 0o700)?;
    tree.copy(
        "/etc/sensor/sensor.toml",
        0o644,
        &place.root.join("packaging/image/sensor.toml"),
    )?;
    Ok(tree)
}

fn node(place: &Place, program: &Path, mut tree: Tree) -> anyhow::Result<Tree> {
    tree.copy("/usr/bin/central-node", 0o755, program)?;
    tree.copy(
        "/etc/central-node/central-node.toml",
        0o644,
        &place.root.join("packaging/image/central-node.toml"),
    )?;
    tree.folder("/etc/central-node/tls", 0o755)?;
    tree.folder_of(NODE_USER, "/var/lib/central-node", 0o700)?;
    Ok(tree)
}

/// What the images are made of, and when it was written.
#[derive(Debug)]
pub(crate) struct Source {
    /// Seconds of the Unix epoch.
    time: u64,
    /// The commit, where there is one.
    revision: Option<String>,
}

impl Source {
    /// For images that are only judged: any time will do where there is no git to ask.
    pub(crate) fn for_a_check(place: &Place) -> Self {
        Self::find(place).unwrap_or(Self {
            time: 1_700_000_000,
            revision: None,
        })
    }

    /// The time is `SOURCE_DATE_EPOCH`, else that of the commit.
    pub(crate) fn find(place: &Place) -> anyhow::Result<Self> {
        let git = |arguments: &[&str]| {
            let answer = output(
                Command::new("git")
                    .arg("-C")
                    .arg(&place.root)
                    .args(arguments),
            );
            answer.map(|text| text.trim().to_owned())
        };
        let revision = git(&["rev-parse", "HEAD"]);
        let time = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}"))?,
            Err(_absent) => git(&["log", "-1", "--format=%ct"])
                .context("no commit to take the time from: set SOURCE_DATE_EPOCH")?
                .parse()
                .context("the time of the commit")?,
        };
        Ok(Self {
            time,
            revision: revision.ok(),
        })
    }

    fn labels(&self, title: &str, description: &str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut label = |key: &str, value: &str| {
            labels.insert(format!("org.opencontainers.image.{key}"), value.to_owned());
        };
        label("title", title);
        label("description", description);
        label("version", env!("CARGO_PKG_VERSION"));
        label("licenses", "MIT OR Apache-2.0");
        if let Some(revision) = &self.revision {
            label("revision", revision);
        }
        labels
    }
}

/// As Go, and with it the specification of images, names processors.
fn architecture(host: &str) -> anyhow::Result<&'static str> {
    match host.split('-').next() {
        Some("x86_64") => Ok("amd64"),
        Some("aarch64") => Ok("arm64"),
        _ => bail!("no name for the processor of {host} in images"),
    }
}
