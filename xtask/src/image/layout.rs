//! An OCI image layout (image-spec 1.1) of one layer, made in memory: the same files, time and words give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive::{Style, Tree, gz};

/// Where in a layout its blobs are.
const BLOBS: &str = "blobs/sha256";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is beside its files.
#[derive(Debug)]
pub(crate) struct About {
    /// Name of the image, without registry.
    pub(crate) name: String,
    /// Tag.
    pub(crate) version: String,
    /// As Go names processors: `amd64`.
    pub(crate) architecture: &'static str,
    /// Seconds of the Unix epoch; the time of every file, too.
    pub(crate) time: u64,
    /// Labels of the configuration and annotations of the manifest: `org.opencontainers.image.*`.
    pub(crate) labels: BTreeMap<String, String>,
    /// The member `config` of the image's configuration; the labels are added.
    pub(crate) run: Value,
}

/// An image in memory.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Path in the layout and content, in the order of an archive.
    files: BTreeMap<String, Vec<u8>>,
    /// Digest of the manifest: `sha256:...`.
    pub(crate) digest: String,
    time: u64,
}

impl Layout {
    /// Puts the image together.
    pub(crate) fn new(tree: &Tree, about: &About) -> anyhow::Result<Self> {
        let mut layout = Self {
            files: BTreeMap::new(),
            digest: String::new(),
            time: about.time,
        };
        let created = created(about.time)?;
        let tar = tree.tar(Style::Layer, about.time)?;
        let diff_id = format!("sha256:{}", hex(&tar));
        let layer = layout.blob(LAYER, gz(&tar)?);

        let mut run = about.run.clone();
        let members = run
            .as_object_mut()
            .context("config of an image is an object")?;
        members.insert("Labels".to_owned(), json!(about.labels));
        let config = layout.document(
            CONFIG,
            json!({
                "created": created,
                "architecture": about.architecture,
                "os": "linux",
                "config": run,
                "rootfs": { "type": "layers", "diff_ids": [diff_id] },
                "history": [{ "created": created, "created_by": "cargo xtask image" }],
            }),
        )?;
        let mut manifest = layout.document(
            MANIFEST,
            json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": [layer],
                "annotations": about.labels,
            }),
        )?;
        layout.digest = manifest
            .get("digest")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let reference = manifest
            .as_object_mut()
            .context("a descriptor is an object")?;
        reference.insert(
            "annotations".to_owned(),
            json!({
                "org.opencontainers.image.ref.name": about.version,
                // The name under which containerd imports it.
                "io.containerd.image.name": format!("localhost/{}:{}", about.name, about.version),
            }),
        );
        reference.insert(
            "platform".to_owned(),
            json!({ "architecture": about.architecture, "os": "linux" }),
        );
        let index = sorted(json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [manifest],
        }))?;
        layout.files.insert("index.json".to_owned(), index);
        layout.files.insert(
            "oci-layout".to_owned(),
            sorted(json!({ "imageLayoutVersion": "1.0.0" }))?,
        );
        Ok(layout)
    }

    /// Keeps a document as a blob; gives its descriptor.
    fn document(&mut self, media_type: &str, document: Value) -> anyhow::Result<Value> {
        let bytes = sorted(document)?;
        Ok(self.blob(media_type, bytes))
    }

    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = hex(&bytes);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        });
        self.files.insert(format!("{BLOBS}/{digest}"), bytes);
        descriptor
    }

    /// Writes the layout as a folder, in the place of one that is there.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        if folder.exists() {
            ensure!(
                folder.join("oci-layout").is_file(),
                "{} is there and no image layout",
                folder.display()
            );
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder.join(BLOBS))?;
        for (path, content) in &self.files {
            let path = folder.join(path);
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Writes the same as one archive, which `docker load`, `podman load` and `ctr images import` take.
    pub(crate) fn archive(&self, file: &Path) -> anyhow::Result<()> {
        let mut tree = Tree::default();
        for (path, content) in &self.files {
            tree.file(path, 0o644, content.as_slice())?;
        }
        fs::write(file, tree.tar(Style::Layer, self.time)?)
            .with_context(|| file.display().to_string())
    }
}

/// JSON with the members of every object in order, however maps are kept in memory.
fn sorted(mut document: Value) -> anyhow::Result<Vec<u8>> {
    document.sort_all_objects();
    Ok(serde_json::to_vec(&document)?)
}

fn created(time: u64) -> anyhow::Result<String> {
    let time = time::OffsetDateTime::from_unix_timestamp(time.try_into()?)?;
    Ok(time.format(&time::format_description::well_known::Rfc3339)?)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn about() -> About {
        let words = [
            "title", "version", "vendor", "licenses", "created", "revision",
        ];
        About {
            name: "one".to_owned(),
            version: "1.2.3".to_owned(),
            architecture: "amd64",
            time: 1_700_000_000,
            labels: words
                .iter()
                .map(|word| (format!("org.opencontainers.image.{word}"), word.to_string()))
                .collect(),
            run: json!({ "Env": ["A=b"], "Entrypoint": ["/usr/bin/one"], "Cmd": [] }),
        }
    }

    fn tree(backwards: bool) -> Tree {
        let mut tree = Tree::default();
        let mut files = vec![
            ("/usr/bin/one", 0o755, b"program".to_vec()),
            ("/etc/passwd", 0o644, b"root:x:0:0::/:/x\n".to_vec()),
            // A repetitive one, so that there is something to compress.
            ("/usr/share/text", 0o644, b"0123456789".repeat(10_000)),
        ];
        if backwards {
            files.reverse();
        }
        for (path, mode, content) in files {
            tree.file(path, mode, content).unwrap();
        }
        tree.folder_of(65532, "/var/lib/one", 0o700).unwrap();
        tree
    }

    fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for part in ["", BLOBS] {
            for entry in fs::read_dir(folder.join(part)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = Vec::new();
        for (name, backwards) in [("first", false), ("second", true)] {
            let layout = Layout::new(&tree(backwards), &about()).unwrap();
            let archive = folder.path().join(format!("{name}.tar"));
            layout.write(&folder.path().join(name)).unwrap();
            // Once more over what is there.
            layout.write(&folder.path().join(name)).unwrap();
            layout.archive(&archive).unwrap();
            made.push((
                layout.digest.clone(),
                bytes_of(&folder.path().join(name)),
                fs::read(archive).unwrap(),
            ));
        }
        assert_eq!(made[0], made[1]);
        let other = About {
            time: 1_700_000_001,
            ..about()
        };
        let other = Layout::new(&tree(false), &other).unwrap();
        assert_ne!(other.digest, made[0].0, "the time is part of the image");
    }

    #[test]
    fn every_digest_is_of_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&tree(false), &about()).unwrap();
        layout.write(folder.path().join("l").as_path()).unwrap();
        let files = bytes_of(&folder.path().join("l"));
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&format!("{BLOBS}/{}", digest.strip_prefix("sha256:").unwrap())];
            assert_eq!(format!("sha256:{}", hex(bytes)), digest);
            assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
            bytes.clone()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        assert_eq!(index["manifests"][0]["digest"], json!(layout.digest));
        let manifest = json(&blob(&index["manifests"][0]));
        let config = json(&blob(&manifest["config"]));
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(blob(&manifest["layers"][0]).as_slice())
            .read_to_end(&mut tar)
            .unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!([format!("sha256:{}", hex(&tar))])
        );
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["Labels"], manifest["annotations"]);
        assert_eq!(files.len(), 5, "{:?}", files.keys());
    }

    #[test]
    fn a_folder_that_is_no_layout_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "x").unwrap();
        Layout::new(&tree(false), &about())
            .unwrap()
            .write(folder.path())
            .unwrap_err();
        assert!(folder.path().join("mine").exists());
    }
}
