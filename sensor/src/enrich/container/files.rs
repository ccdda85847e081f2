//! The files in which runtimes write down their containers, and what of them is told.
//!
//! Only root writes them, but for users who run containers of their own; what is in them comes from whoever starts a
//! container. They also hold what must not leave the host (environment, arguments, mounts): the keys that are named here are
//! taken, everything else is passed over by the parser and never kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sensor_proto::field::container as number;
use sensor_proto::v1::{Absent, AbsentReason, Container, ContainerRuntime, Label};
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::Question;
use super::facts::{Answer, Facts};
use crate::config::ContainerConfig;
use crate::enrich::environment::Policy;
use crate::enrich::user::is_remote;
use crate::procfs::{Folder, Proc, ProcError};

/// Specification or state of one container; some ten kilobytes are usual.
const ONE_MAX_BYTES: usize = 4 << 20;
/// Lists of all containers or images of a store.
const LIST_MAX_BYTES: usize = 16 << 20;
/// passwd, to find the home of who runs a container.
const PASSWD_MAX_BYTES: usize = 8 << 20;
/// Namespaces of one containerd; two or three are usual.
const NAMESPACES: usize = 64;
/// References of images (255 bytes of repository, 128 of tag, a digest), names, names of namespaces.
const TEXT_MAX_BYTES: usize = 512;
/// Labels that are told of one container, and bytes of their names and values.
const LABELS: usize = 32;
const LABELS_BYTES: usize = 4096;

/// Where containerd keeps the bundles of what runs, below its state.
const TASKS: &str = "io.containerd.runtime.v2.task";
/// containerd's namespace for Docker, whose own files tell more.
const MOBY: &str = "moby";
/// Storage drivers of CRI-O and Podman, which name folders of the store.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];
/// Lists of containers: of those that survive a crash and of the others.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// Where a user's own runtimes keep theirs, below the home.
const USER_DOCKER: &str = ".local/share/docker";
const USER_STORAGE: &str = ".local/share/containers/storage";

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ProcError),
    /// It is not as its runtime writes it.
    #[error("{what} is not as expected")]
    Malformed {
        /// Which file.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It lies on a file system that another process or host answers for.
    #[error("{0} is on a remote file system")]
    Remote(PathBuf),
}

impl FileError {
    fn reason(&self) -> AbsentReason {
        match self {
            Self::Unreadable(ProcError::NotPermitted { .. }) => AbsentReason::NotPermitted,
            Self::Unreadable(ProcError::TooLarge { .. } | ProcError::TooMany { .. }) => {
                AbsentReason::Truncated
            }
            Self::Unreadable(
                ProcError::Gone { .. }
                | ProcError::Malformed(_)
                | ProcError::Refused { .. }
                | ProcError::Failed { .. },
            )
            | Self::Malformed { .. } => AbsentReason::ReadFailed,
            Self::Remote(_) => AbsentReason::NotCollected,
        }
    }
}

/// What is taken over from the files of one runtime, before it is bounded.
#[derive(Debug, Default)]
struct Draft {
    runtime: ContainerRuntime,
    name: Option<String>,
    image: Option<String>,
    image_digest: Option<String>,
    image_id: Option<String>,
    pod_id: Option<String>,
    pod_name: Option<String>,
    pod_namespace: Option<String>,
    /// `None`: these files have none, whether the container has or not.
    labels: Option<BTreeMap<String, String>>,
}

/// The folders of one owner's runtimes.
#[derive(Debug, Default)]
struct Places {
    docker: Vec<PathBuf>,
    containerd: Vec<PathBuf>,
    storage: Vec<PathBuf>,
    /// Links on the way to them are followed.
    links: bool,
}

/// Where to look, and what may be told.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    of_root: Places,
    labels: Policy,
    proc: Proc,
}

impl Files {
    /// Below `root`. `proc` tells what is mounted where.
    pub(super) fn new(config: &ContainerConfig, root: PathBuf, labels: Policy, proc: Proc) -> Self {
        Self {
            root,
            of_root: Places {
                docker: config.docker.clone(),
                containerd: config.containerd.clone(),
                storage: config.storage.clone(),
                links: true,
            },
            labels,
            proc,
        }
    }

    /// Looks for one container. `failed` is told of every file that is there and says nothing.
    pub(super) fn find(&self, question: &Question, failed: &mut dyn FnMut(&FileError)) -> Answer {
        use ContainerRuntime::{Containerd, Crio, Docker, Lxc, Nspawn, Podman, Unspecified};
        type Look = fn(&Places, &Path, &str) -> Result<Option<Draft>, FileError>;
        let of_user;
        let places = match question.owner {
            None => &self.of_root,
            Some(uid) => match self.user(uid) {
                Ok(places) => {
                    of_user = places;
                    &of_user
                }
                Err(error) => {
                    failed(&error);
                    return Err(error.reason());
                }
            },
        };
        let all: &[Look] = match question.runtime {
            Docker => &[Places::docker],
            Crio | Podman => &[Places::storage],
            // Docker's containers are containerd's, too.
            Containerd => &[Places::containerd, Places::docker],
            Unspecified | Nspawn | Lxc => &[Places::docker, Places::storage, Places::containerd],
        };
        let mut reason = AbsentReason::NotSet;
        for look in all {
            match look(places, &self.root, &question.id) {
                Ok(Some(draft)) => return Ok(self.finish(draft)),
                Ok(None) => {}
                Err(error) => {
                    failed(&error);
                    reason = error.reason();
                }
            }
        }
        Err(reason)
    }

    /// Where the runtimes of a user keep theirs, unless the home may let a reader wait.
    fn user(&self, uid: u32) -> Result<Places, FileError> {
        let root = Folder::open(&self.root, Path::new("/"), true)?;
        let passwd = root.file("etc/passwd", "passwd")?.read(PASSWD_MAX_BYTES)?;
        let home = home(&passwd, uid);
        let below =
            |path: &str| -> Vec<PathBuf> { home.iter().map(|home| home.join(path)).collect() };
        let mut places = Places {
            docker: below(USER_DOCKER),
            containerd: Vec::new(),
            storage: below(USER_STORAGE),
            links: false,
        };
        places
            .storage
            .push(format!("/run/user/{uid}/containers").into());
        let mounts = self.proc.own()?.mountinfo()?;
        for place in places.docker.iter().chain(&places.storage) {
            let relative = place.strip_prefix("/").unwrap_or(place);
            if is_remote(&mounts, &self.root.join(relative)) {
                return Err(FileError::Remote(place.clone()));
            }
        }
        Ok(places)
    }

    /// Bounds what was found, and leaves of the labels those that may be told.
    fn finish(&self, draft: Draft) -> Facts {
        let mut told = Container::default();
        let mut absent = Vec::new();
        let mut take = |field, text: Option<String>| {
            let text = text.filter(|text| !text.is_empty())?;
            if text.len() > TEXT_MAX_BYTES {
                absent.push(Absent::new(field, AbsentReason::Truncated));
                return None;
            }
            Some(text)
        };
        let image = draft
            .image
            .map(|image| match image.strip_prefix("sha256:") {
                // Nothing but an identity.
                Some(hash) if is_sha256(hash) => (None, Some(image)),
                _ => (Some(image), None),
            });
        let (image, only_id) = image.unwrap_or_default();
        let digest = draft.image_digest.or_else(|| {
            let (_, digest) = image.as_ref()?.rsplit_once('@')?;
            Some(digest.to_owned())
        });
        let whole = |hash: String| match hash.split_once(':') {
            Some(_) => hash,
            None => format!("sha256:{hash}"),
        };
        let is_digest = |text: &String| text.strip_prefix("sha256:").is_some_and(is_sha256);
        told.image_digest = digest.filter(is_digest);
        told.image_id = draft.image_id.or(only_id).map(whole).filter(is_digest);
        told.name = take(number::NAME, draft.name);
        told.pod_id = take(number::POD_ID, draft.pod_id);
        told.pod_name = take(number::POD_NAME, draft.pod_name);
        told.pod_namespace = take(number::POD_NAMESPACE, draft.pod_namespace);
        told.image = take(number::IMAGE, image);
        if let Some(labels) = draft.labels {
            self.tell_labels(&labels, &mut told);
        }
        let silent = |absent: &[Absent]| absent.iter().all(|gap| gap.field != number::IMAGE);
        if told.image.is_none() && silent(&absent) {
            absent.push(Absent::new(number::IMAGE, AbsentReason::NotSet));
        }
        told.absent = absent;
        Facts {
            runtime: draft.runtime,
            told,
        }
    }

    fn tell_labels(&self, labels: &BTreeMap<String, String>, told: &mut Container) {
        let mut strings = Vec::new();
        let mut withheld = 0_usize;
        for (name, value) in labels {
            // As a variable: what it allows and masks is the same.
            if name.contains(['=', '\0']) || value.contains('\0') {
                withheld = withheld.saturating_add(1);
                continue;
            }
            strings.extend_from_slice(format!("{name}={value}\0").as_bytes());
        }
        let allowed = self.labels.environment(&strings);
        let withheld = u32::try_from(withheld).unwrap_or(u32::MAX);
        told.labels_withheld = Some(allowed.withheld.saturating_add(withheld));
        told.labels_truncated = allowed.cut;
        let mut bytes = 0_usize;
        for variable in allowed.variables {
            let size = variable.name.len() + variable.value.as_ref().map_or(0, Vec::len);
            if told.labels.len() == LABELS || bytes.saturating_add(size) > LABELS_BYTES {
                told.labels_truncated = true;
                continue;
            }
            bytes += size;
            told.labels.push(Label {
                name: String::from_utf8_lossy(&variable.name).into_owned(),
                value: variable
                    .value
                    .map(|value| String::from_utf8_lossy(&value).into_owned()),
                redacted: variable.redacted,
            });
        }
    }
}

/// 64 hexadecimal digits in lower case.
fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The home of a user by passwd(5).
fn home(passwd: &[u8], uid: u32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let uid = uid.to_string();
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        (fields.nth(2)? == uid.as_bytes()).then_some(())?;
        let home = PathBuf::from(std::ffi::OsStr::from_bytes(fields.nth(2)?));
        home.is_absolute().then_some(home)
    })
}

/// A file that there may be none of.
fn there<T>(read: Result<T, FileError>) -> Result<Option<T>, FileError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(FileError::Unreadable(ProcError::Gone { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(root: &Path, place: &Path, links: bool) -> Result<Option<Folder>, FileError> {
    there(Folder::open(root, place, links).map_err(FileError::from))
}

fn json<T: DeserializeOwned>(
    folder: &Folder,
    path: &str,
    what: &'static str,
) -> Result<Option<T>, FileError> {
    let Some(bytes) = bytes(folder, path, what, ONE_MAX_BYTES)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|source| FileError::Malformed { what, source })
}

fn bytes(
    folder: &Folder,
    path: &str,
    what: &'static str,
    limit: usize,
) -> Result<Option<Vec<u8>>, FileError> {
    there((|| Ok(folder.file(path, what)?.read(limit)?))())
}

/// The entry of a list that has this `id`.
fn entry<T: DeserializeOwned + Identified>(
    folder: &Folder,
    path: &str,
    what: &'static str,
    id: &str,
) -> Result<Option<T>, FileError> {
    let Some(bytes) = bytes(folder, path, what, LIST_MAX_BYTES)? else {
        return Ok(None);
    };
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let pick = Pick {
        id,
        of: std::marker::PhantomData,
    };
    pick.deserialize(&mut reader)
        .map_err(|source| FileError::Malformed { what, source })
}

/// An entry of a list.
trait Identified {
    fn id(&self) -> &str;
}

/// Keeps of a list the one entry that is wanted.
struct Pick<'a, T> {
    id: &'a str,
    of: std::marker::PhantomData<T>,
}

impl<'de, T: Deserialize<'de> + Identified> DeserializeSeed<'de> for Pick<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de> + Identified> Visitor<'de> for Pick<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while let Some(one) = list.next_element::<T>()? {
            if one.id() == self.id {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Some(one));
            }
        }
        Ok(None)
    }
}

/// `config.v2.json` of Docker; it has the environment, too, which is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerState {
    name: Option<String>,
    image: Option<String>,
    config: Option<DockerSettings>,
    image_manifest: Option<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerSettings {
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Option<String>,
}

/// `config.json` of the Open Container Initiative: arguments, environment and mounts are passed over.
#[derive(Deserialize)]
struct Specification {
    annotations: Option<BTreeMap<String, String>>,
}

/// A container in the list of a store.
#[derive(Deserialize)]
struct StoredContainer {
    id: String,
    names: Option<Vec<String>>,
    image: Option<String>,
    /// JSON in a string.
    metadata: Option<String>,
}

impl Identified for StoredContainer {
    fn id(&self) -> &str {
        &self.id
    }
}

/// What Podman and CRI-O put into the store's list.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct StoredMetadata {
    image_name: Option<String>,
    image_id: Option<String>,
    name: Option<String>,
}

/// An image in the list of a store.
#[derive(Deserialize)]
struct StoredImage {
    id: String,
    digest: Option<String>,
    names: Option<Vec<String>>,
}

impl Identified for StoredImage {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Places {
    fn docker(&self, root: &Path, id: &str) -> Result<Option<Draft>, FileError> {
        for place in &self.docker {
            let Some(folder) = open(root, place, self.links)? else {
                continue;
            };
            let path = format!("containers/{id}/config.v2.json");
            let Some(state) = json::<DockerState>(&folder, &path, "Docker's config.v2.json")?
            else {
                continue;
            };
            let (image, mut labels) = state
                .config
                .map(|config| (config.image, config.labels.unwrap_or_default()))
                .unwrap_or_default();
            // Set by what runs pods with Docker; the name that Docker has then is made of all of these.
            let mut of_pod = |key: &str| labels.remove(&format!("io.kubernetes.{key}"));
            let (pod_id, pod_name) = (of_pod("pod.uid"), of_pod("pod.name"));
            let (pod_namespace, in_pod) = (of_pod("pod.namespace"), of_pod("container.name"));
            let name = state.name.map(|name| {
                let bare = name.strip_prefix('/');
                bare.map(str::to_owned).unwrap_or(name)
            });
            return Ok(Some(Draft {
                runtime: ContainerRuntime::Docker,
                name: in_pod.or(name),
                image,
                image_digest: state.image_manifest.and_then(|manifest| manifest.digest),
                image_id: state.image,
                pod_id,
                pod_name,
                pod_namespace,
                labels: Some(labels),
            }));
        }
        Ok(None)
    }

    fn containerd(&self, root: &Path, id: &str) -> Result<Option<Draft>, FileError> {
        const WHAT: &str = "containerd's config.json";
        for place in &self.containerd {
            let Some(folder) = open(root, place, self.links)? else {
                continue;
            };
            let namespaces = folder.folders(TASKS, WHAT, NAMESPACES);
            let Some(namespaces) = there(namespaces.map_err(FileError::from))? else {
                continue;
            };
            for namespace in namespaces.iter().filter(|name| *name != MOBY) {
                let path = format!("{TASKS}/{namespace}/{id}/config.json");
                if let Some(found) = json::<Specification>(&folder, &path, WHAT)? {
                    return Ok(Some(of_containerd(found.annotations.unwrap_or_default())));
                }
            }
        }
        Ok(None)
    }

    /// CRI-O and Podman: the store's list, its list of images, and the specification that the runtime saved beside them.
    fn storage(&self, root: &Path, id: &str) -> Result<Option<Draft>, FileError> {
        const WHAT: &str = "list of containers of a store";
        let mut stored: Option<StoredContainer> = None;
        let mut annotations: Option<BTreeMap<String, String>> = None;
        let mut opened = Vec::new();
        for place in &self.storage {
            let Some(folder) = open(root, place, self.links)? else {
                continue;
            };
            for driver in DRIVERS {
                for list in LISTS {
                    if stored.is_none() {
                        stored = entry(&folder, &format!("{driver}-containers/{list}"), WHAT, id)?;
                    }
                }
                if annotations.is_none() {
                    annotations = specification(&folder, driver, id)?;
                }
            }
            opened.push(folder);
        }
        if stored.is_none() && annotations.is_none() {
            return Ok(None);
        }
        let mut annotations = annotations.unwrap_or_default();
        let mut draft = of_crio(&mut annotations);
        if draft.runtime == ContainerRuntime::Crio
            && let Some(sandbox) = annotations
                .get("io.kubernetes.cri-o.SandboxID")
                .and_then(|sandbox| super::hexadecimal(sandbox.as_bytes()))
                .filter(|sandbox| sandbox != id)
        {
            // Labels of the pod are its sandbox's.
            for (folder, driver) in opened
                .iter()
                .flat_map(|folder| DRIVERS.map(|d| (folder, d)))
            {
                if let Some(mut of_pod) = specification(folder, driver, &sandbox)? {
                    let labels = draft.labels.get_or_insert_default();
                    for (name, value) in of_crio(&mut of_pod).labels.unwrap_or_default() {
                        labels.entry(name).or_insert(value);
                    }
                    break;
                }
            }
        }
        if let Some(stored) = stored {
            let metadata = stored.metadata.as_deref().map(serde_json::from_str);
            let metadata: StoredMetadata = metadata
                .transpose()
                .map_err(|source| FileError::Malformed { what: WHAT, source })?
                .unwrap_or_default();
            let full = |text: Option<String>| text.filter(|text| !text.is_empty());
            draft.image_id = full(metadata.image_id).or(full(stored.image));
            draft.image = draft.image.or(full(metadata.image_name));
            draft.name = draft.name.or(full(metadata.name)).or_else(|| {
                let mut names = stored.names.unwrap_or_default().into_iter();
                names.next()
            });
        }
        if let Some(image_id) = draft.image_id.as_deref().and_then(|id| {
            let bare = id.strip_prefix("sha256:").unwrap_or(id);
            is_sha256(bare).then_some(bare)
        }) {
            for (folder, driver) in opened
                .iter()
                .flat_map(|folder| DRIVERS.map(|d| (folder, d)))
            {
                let path = format!("{driver}-images/images.json");
                let found: Option<StoredImage> =
                    entry(folder, &path, "list of images of a store", image_id)?;
                if let Some(image) = found {
                    draft.image_digest = image.digest;
                    draft.image = draft.image.or_else(|| image.names?.into_iter().next());
                    break;
                }
            }
        }
        Ok(Some(draft))
    }
}

fn specification(
    folder: &Folder,
    driver: &str,
    id: &str,
) -> Result<Option<BTreeMap<String, String>>, FileError> {
    let path = format!("{driver}-containers/{id}/userdata/config.json");
    let found = json::<Specification>(folder, &path, "config.json of a store")?;
    Ok(found.map(|found| found.annotations.unwrap_or_default()))
}

/// A specification by containerd: of a pod's container, or of one that was made by hand or by nerdctl.
fn of_containerd(mut annotations: BTreeMap<String, String>) -> Draft {
    let mut of_pod = |key: &str| annotations.remove(&format!("io.kubernetes.cri.{key}"));
    let mut draft = Draft {
        runtime: ContainerRuntime::Containerd,
        name: of_pod("container-name"),
        image: of_pod("image-name"),
        pod_id: of_pod("sandbox-uid"),
        pod_name: of_pod("sandbox-name"),
        pod_namespace: of_pod("sandbox-namespace"),
        ..Draft::default()
    };
    if let Some(name) = annotations.remove("nerdctl/name") {
        // It puts labels among the annotations.
        draft.name = Some(name);
        annotations.retain(|key, _| !key.starts_with("nerdctl/"));
        draft.labels = Some(annotations);
    }
    draft
}

/// A specification by CRI-O; Podman's has none of this.
fn of_crio(annotations: &mut BTreeMap<String, String>) -> Draft {
    // Podman, too, writes some of the others.
    if !annotations.contains_key("io.kubernetes.cri-o.Metadata") {
        return Draft {
            runtime: ContainerRuntime::Podman,
            ..Draft::default()
        };
    }
    let labels = annotations.remove("io.kubernetes.cri-o.Labels");
    let mut full = |key: &str| annotations.remove(key).filter(|text| !text.is_empty());
    Draft {
        runtime: ContainerRuntime::Crio,
        name: full("io.kubernetes.container.name"),
        image: full("io.kubernetes.cri-o.ImageName").or_else(|| full("io.kubernetes.cri-o.Image")),
        pod_id: full("io.kubernetes.pod.uid"),
        pod_name: full("io.kubernetes.pod.name"),
        pod_namespace: full("io.kubernetes.pod.namespace"),
        // JSON in a string; if it is none there are no labels.
        labels: labels.and_then(|labels| serde_json::from_str(&labels).ok()),
        ..Draft::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ContainerTable;

    const A: &str = "3f1b0a8c5d7e9f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a";
    const B: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const UID: &str = "0f9e8d7c-6b5a-4938-2716-050403020100";

    fn files(root: &Path, labels: &[&str]) -> Files {
        let table = ContainerTable::default();
        let config = ContainerConfig {
            files: true,
            labels: Vec::new(),
            docker: table.docker,
            containerd: table.containerd,
            storage: table.storage,
        };
        let labels = Policy::new(labels, &["*cookie*"]).unwrap();
        Files::new(&config, root.to_owned(), labels, Proc::default())
    }

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn question(runtime: ContainerRuntime, owner: Option<u32>) -> Question {
        Question {
            runtime,
            id: A.to_owned(),
            owner,
        }
    }

    fn find(files: &Files, runtime: ContainerRuntime) -> Facts {
        let found = files.find(&question(runtime, None), &mut |error| panic!("{error}"));
        found.unwrap()
    }

    fn labels(told: &Container) -> Vec<(&str, Option<&str>)> {
        let labels = told.labels.iter();
        labels
            .map(|label| (label.name.as_str(), label.value.as_deref()))
            .collect()
    }

    /// As Docker 24 writes it, shortened.
    fn docker_state(labels: &str) -> String {
        format!(
            r#"{{"StreamConfig":{{}},"State":{{"Running":true,"Pid":4242,"ExitCode":0,"Health":null}},"ID":"{A}",
            "Created":"2026-01-02T03:04:05.678901234Z","Managed":false,"Path":"/docker-entrypoint.sh","Args":["nginx","-g","daemon off;"],
            "Config":{{"Hostname":"3f1b0a8c5d7e","ExposedPorts":{{"80/tcp":{{}}}},"Tty":false,"Env":["DB_PASSWORD=hunter2","PATH=/bin"],
            "Cmd":["nginx"],"Image":"nginx:1.27","Volumes":null,"OnBuild":null,"Labels":{{{labels}}}}},
            "Image":"sha256:{HASH}","ImageManifest":null,"NetworkSettings":{{"Bridge":"","Networks":{{}}}},
            "Name":"/web","Driver":"overlay2","OS":"linux","RestartCount":0,"MountPoints":{{}},"SecretReferences":null}}"#
        )
    }

    #[test]
    fn a_container_of_docker() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("var/lib/docker/containers/{A}/config.v2.json");
        put(
            root.path(),
            &path,
            &docker_state(
                r#""app":"shop","com.docker.compose.service":"web","maintainer":"a@example.com""#,
            ),
        );
        let files = files(root.path(), &["app", "com.docker.compose.*"]);
        let facts = find(&files, ContainerRuntime::Docker);
        assert_eq!(facts.runtime, ContainerRuntime::Docker);
        let told = &facts.told;
        assert_eq!(told.name.as_deref(), Some("web"));
        assert_eq!(told.image.as_deref(), Some("nginx:1.27"));
        assert_eq!(told.image_id, Some(format!("sha256:{HASH}")));
        assert_eq!((&told.image_digest, &told.pod_name), (&None, &None));
        let expected = [
            ("app", Some("shop")),
            ("com.docker.compose.service", Some("web")),
        ];
        assert_eq!(labels(told), expected);
        assert_eq!(told.labels_withheld, Some(1));
        assert_eq!(told.absent, []);
        assert!(!format!("{facts:?}").contains("hunter2"));
        // Where the path of the cgroup does not tell who runs it.
        let same = find(&files, ContainerRuntime::Unspecified);
        assert_eq!(same, facts);
        // Podman's are elsewhere.
        let other = files.find(&question(ContainerRuntime::Podman, None), &mut |_| {});
        assert_eq!(other, Err(AbsentReason::NotSet));
    }

    #[test]
    fn a_container_of_a_pod_by_docker() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("var/lib/docker/containers/{A}/config.v2.json");
        let of_pod = format!(
            r#""io.kubernetes.container.name":"cart","io.kubernetes.pod.name":"cart-7d9","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.pod.uid":"{UID}","app":"cart""#
        );
        let state = docker_state(&of_pod)
            .replace("nginx:1.27", &format!("shop/cart@sha256:{HASH}"))
            .replace("\"/web\"", "\"/k8s_cart_cart-7d9_shop_x_0\"");
        put(root.path(), &path, &state);
        let told = find(&files(root.path(), &["*"]), ContainerRuntime::Docker).told;
        assert_eq!(told.name.as_deref(), Some("cart"));
        assert_eq!(told.pod_id.as_deref(), Some(UID));
        assert_eq!(told.pod_name.as_deref(), Some("cart-7d9"));
        assert_eq!(told.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(told.image_digest, Some(format!("sha256:{HASH}")));
        assert_eq!(labels(&told), [("app", Some("cart"))]);
    }

    #[test]
    fn containers_of_containerd() {
        let root = tempfile::tempdir().unwrap();
        let of = |namespace: &str| {
            format!("run/containerd/io.containerd.runtime.v2.task/{namespace}/{A}/config.json")
        };
        let specification = |annotations: &str| {
            format!(
                r#"{{"ociVersion":"1.1.0","process":{{"args":["sh"],"env":["TOKEN=hunter2"],"cwd":"/"}},"root":{{"path":"rootfs"}},
                "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}}]{annotations}}}"#
            )
        };
        // In a pod.
        let of_pod = format!(
            r#","annotations":{{"io.kubernetes.cri.container-name":"cart","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"registry:5000/shop/cart:2","io.kubernetes.cri.sandbox-id":"{B}",
            "io.kubernetes.cri.sandbox-name":"cart-7d9","io.kubernetes.cri.sandbox-namespace":"shop",
            "io.kubernetes.cri.sandbox-uid":"{UID}"}}"#
        );
        put(root.path(), &of("k8s.io"), &specification(&of_pod));
        let files = files(root.path(), &["*"]);
        let facts = find(&files, ContainerRuntime::Containerd);
        assert_eq!(facts.runtime, ContainerRuntime::Containerd);
        let told = &facts.told;
        assert_eq!(told.name.as_deref(), Some("cart"));
        assert_eq!(told.image.as_deref(), Some("registry:5000/shop/cart:2"));
        assert_eq!(told.pod_id.as_deref(), Some(UID));
        assert_eq!(told.pod_name.as_deref(), Some("cart-7d9"));
        assert_eq!(told.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(told.labels_withheld, None);
        assert!(!format!("{facts:?}").contains("hunter2"));
        // By hand: nothing is known of it but that it is there.
        std::fs::remove_file(root.path().join(of("k8s.io"))).unwrap();
        put(root.path(), &of("default"), &specification(""));
        let told = find(&files, ContainerRuntime::Containerd).told;
        let unset = Absent::new(number::IMAGE, AbsentReason::NotSet);
        assert_eq!((told.image, told.absent), (None, vec![unset]));
        // By nerdctl.
        let labelled = r#","annotations":{"nerdctl/name":"box","nerdctl/hostname":"h","com.docker.compose.project":"p"}"#;
        put(root.path(), &of("default"), &specification(labelled));
        let told = find(&files, ContainerRuntime::Containerd).told;
        assert_eq!(told.name.as_deref(), Some("box"));
        assert_eq!(labels(&told), [("com.docker.compose.project", Some("p"))]);
        // Docker's own: its files tell more.
        std::fs::remove_file(root.path().join(of("default"))).unwrap();
        put(root.path(), &of("moby"), &specification(""));
        let path = format!("var/lib/docker/containers/{A}/config.v2.json");
        put(root.path(), &path, &docker_state(""));
        let facts = find(&files, ContainerRuntime::Containerd);
        assert_eq!(facts.runtime, ContainerRuntime::Docker);
    }

    #[test]
    fn a_container_of_podman() {
        let root = tempfile::tempdir().unwrap();
        let store = |path: &str| format!("var/lib/containers/storage/{path}");
        put(
            root.path(),
            &store("overlay-containers/containers.json"),
            &format!(
                r#"[{{"id":"{B}","names":["other"],"image":"x","layer":"y","metadata":"{{}}","created":"2026-01-02T03:04:05Z"}},
                {{"id":"{A}","names":["web"],"image":"{HASH}","layer":"z",
                "metadata":"{{\"image-name\":\"docker.io/library/nginx:latest\",\"image-id\":\"{HASH}\",\"name\":\"web\",\"created-at\":1}}",
                "created":"2026-01-02T03:04:05Z","flags":{{"MountLabel":"","ProcessLabel":""}}}},{{"id":"z"}}]"#
            ),
        );
        put(
            root.path(),
            &store("overlay-images/images.json"),
            &format!(
                r#"[{{"id":"{HASH}","digest":"sha256:{B}","names":["docker.io/library/nginx:latest"],"layer":"l",
                "big-data-sizes":{{"manifest":1}},"created":"2026-01-02T03:04:05Z"}}]"#
            ),
        );
        put(
            root.path(),
            &store(&format!("overlay-containers/{A}/userdata/config.json")),
            r#"{"ociVersion":"1.0.2","process":{"env":["X=hunter2"]},"annotations":{"io.container.manager":"libpod",
            "io.kubernetes.cri-o.ContainerType":"container","org.opencontainers.image.stopSignal":"15"}}"#,
        );
        let files = files(root.path(), &["*"]);
        let facts = find(&files, ContainerRuntime::Podman);
        assert_eq!(facts.runtime, ContainerRuntime::Podman);
        let told = &facts.told;
        assert_eq!(told.name.as_deref(), Some("web"));
        let image = "docker.io/library/nginx:latest";
        assert_eq!(told.image.as_deref(), Some(image));
        assert_eq!(told.image_id, Some(format!("sha256:{HASH}")));
        assert_eq!(told.image_digest, Some(format!("sha256:{B}")));
        assert_eq!((told.labels_withheld, &*told.absent), (None, &[][..]));
        // One that is not in the list of those that last.
        std::fs::rename(
            root.path()
                .join(store("overlay-containers/containers.json")),
            root.path()
                .join(store("overlay-containers/volatile-containers.json")),
        )
        .unwrap();
        assert_eq!(find(&files, ContainerRuntime::Podman), facts);
    }

    #[test]
    fn a_container_of_crio() {
        let root = tempfile::tempdir().unwrap();
        let store = |id: &str| {
            format!("run/containers/storage/overlay-containers/{id}/userdata/config.json")
        };
        put(
            root.path(),
            &store(A),
            &format!(
                r#"{{"annotations":{{"io.container.manager":"cri-o","io.kubernetes.container.name":"cart",
                "io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.Image":"{HASH}",
                "io.kubernetes.cri-o.ImageName":"quay.io/shop/cart:2","io.kubernetes.cri-o.ImageRef":"{HASH}",
                "io.kubernetes.cri-o.Labels":"{{\"io.kubernetes.pod.name\":\"cart-7d9\",\"tier\":\"front\"}}",
                "io.kubernetes.cri-o.Metadata":"{{\"name\":\"cart\"}}","io.kubernetes.cri-o.SandboxID":"{B}",
                "io.kubernetes.pod.name":"cart-7d9","io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"{UID}"}}}}"#
            ),
        );
        put(
            root.path(),
            &store(B),
            r#"{"annotations":{"io.kubernetes.cri-o.Metadata":"{}",
            "io.kubernetes.cri-o.Labels":"{\"app\":\"cart\",\"tier\":\"of the pod\"}"}}"#,
        );
        let facts = find(
            &files(root.path(), &["app", "tier"]),
            ContainerRuntime::Crio,
        );
        assert_eq!(facts.runtime, ContainerRuntime::Crio);
        let told = &facts.told;
        assert_eq!(told.name.as_deref(), Some("cart"));
        assert_eq!(told.image.as_deref(), Some("quay.io/shop/cart:2"));
        assert_eq!(told.pod_id.as_deref(), Some(UID));
        assert_eq!(told.pod_name.as_deref(), Some("cart-7d9"));
        assert_eq!(told.pod_namespace.as_deref(), Some("shop"));
        let expected = [("app", Some("cart")), ("tier", Some("front"))];
        assert_eq!(labels(told), expected);
        assert_eq!(told.labels_withheld, Some(1));
    }

    #[test]
    fn a_users_own_container() {
        let root = tempfile::tempdir().unwrap();
        put(
            root.path(),
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000:A:/home/alice:/bin/sh\nrel:x:7:7::home:/bin/sh\n",
        );
        let path = format!("home/alice/.local/share/docker/containers/{A}/config.v2.json");
        put(root.path(), &path, &docker_state(""));
        let files = files(root.path(), &[]);
        let ask = |owner, failures: &mut u32| {
            files.find(&question(ContainerRuntime::Docker, owner), &mut |_| {
                *failures += 1;
            })
        };
        let mut failures = 0;
        let found = ask(Some(1000), &mut failures).unwrap();
        assert_eq!(found.told.name.as_deref(), Some("web"));
        // Nobody else has it, root included; users without a home have nothing.
        for owner in [None, Some(7), Some(1001)] {
            assert_eq!(ask(owner, &mut failures), Err(AbsentReason::NotSet));
        }
        assert_eq!(failures, 0);
        // A link in the home leads to nothing of others.
        let share = root.path().join("home/alice/.local/share");
        std::fs::rename(&share, root.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("/elsewhere", &share).unwrap();
        assert_eq!(
            ask(Some(1000), &mut failures),
            Err(AbsentReason::ReadFailed)
        );
        assert_eq!(failures, 1);
    }

    #[test]
    fn links_stay_below_the_root_and_below_the_store() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let relative = format!("containers/{A}/config.v2.json");
        put(outside.path(), &relative, &docker_state(""));
        std::fs::create_dir_all(root.path().join("var/lib")).unwrap();
        let place = root.path().join("var/lib/docker");
        std::os::unix::fs::symlink(outside.path(), &place).unwrap();
        let files = files(root.path(), &[]);
        let ask = || files.find(&question(ContainerRuntime::Docker, None), &mut |_| {});
        assert_eq!(ask(), Err(AbsentReason::NotSet));
        // Data moved to another place of the host: its links are seen from the host's root.
        std::fs::remove_file(&place).unwrap();
        put(
            root.path(),
            &format!("data/docker/{relative}"),
            &docker_state(""),
        );
        std::os::unix::fs::symlink("/data/docker", &place).unwrap();
        ask().unwrap();
        let file = root.path().join(format!("data/docker/{relative}"));
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(outside.path().join(&relative), &file).unwrap();
        assert_eq!(ask(), Err(AbsentReason::NotSet));
    }

    #[test]
    fn hostile_files_are_reasons() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("var/lib/docker/containers/{A}/config.v2.json");
        let files = files(root.path(), &["*"]);
        let ask = || {
            let mut failures = 0;
            let docker = question(ContainerRuntime::Docker, None);
            (files.find(&docker, &mut |_| failures += 1), failures)
        };
        for (content, reason) in [
            (String::new(), AbsentReason::ReadFailed),
            ("[".repeat(100_000), AbsentReason::ReadFailed),
            (
                format!("{{\"Config\":{}", "{\"Config\":".repeat(10_000)),
                AbsentReason::ReadFailed,
            ),
            (r#"{"Name":7}"#.to_owned(), AbsentReason::ReadFailed),
            (
                r#"{"Config":{"Labels":{"a":{"b":1}}}}"#.to_owned(),
                AbsentReason::ReadFailed,
            ),
            ("[]".to_owned(), AbsentReason::ReadFailed),
            (" ".repeat(ONE_MAX_BYTES + 1), AbsentReason::Truncated),
        ] {
            put(root.path(), &path, &content);
            assert_eq!(ask(), (Err(reason), 1), "{:.40}", content);
        }
        let file = root.path().join(&path);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(ask(), (Err(AbsentReason::ReadFailed), 1));
        std::fs::remove_dir(&file).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(ask(), (Err(AbsentReason::ReadFailed), 1));
        std::fs::remove_file(&file).unwrap();
        // Bytes that are no text, deep below what is taken, and an empty object: it is there, and says nothing.
        put(
            root.path(),
            &path,
            &format!(
                "{{\"State\":{}1{},\"Name\":null}}",
                "[".repeat(5000),
                "]".repeat(5000)
            ),
        );
        let (found, _) = ask();
        let unset = Absent::new(number::IMAGE, AbsentReason::NotSet);
        assert!(found.is_ok_and(|facts| facts.told.absent == [unset]));
    }

    #[test]
    fn long_texts_and_many_labels_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("var/lib/docker/containers/{A}/config.v2.json");
        let many: Vec<String> = (0..100).map(|n| format!("\"l{n:03}\":\"v\"")).collect();
        let state = docker_state(&many.join(","))
            .replace("/web", &"w".repeat(TEXT_MAX_BYTES + 1))
            .replace("nginx:1.27", &"i".repeat(TEXT_MAX_BYTES + 1))
            .replace(HASH, "no hash");
        put(root.path(), &path, &state);
        let files = files(root.path(), &["l*"]);
        let told = find(&files, ContainerRuntime::Docker).told;
        assert_eq!(
            (&told.name, &told.image, &told.image_id),
            (&None, &None, &None)
        );
        let cut = |field| Absent::new(field, AbsentReason::Truncated);
        assert_eq!(told.absent, [cut(number::NAME), cut(number::IMAGE)]);
        assert_eq!(told.labels.len(), LABELS);
        assert!(told.labels_truncated);
        // Secrets, and names that would not be labels.
        put(
            root.path(),
            &path,
            &docker_state(&format!(
                "\"l\":\"{}\",\"l_password\":\"hunter2\",\"l_cookie\":\"hunter2\",\"l=x\":\"1\",\"l0\":\"a\\u0000b\",\"l1\":\"x\"",
                "v".repeat(LABELS_BYTES)
            )),
        );
        let told = find(&files, ContainerRuntime::Docker).told;
        assert!(!format!("{told:?}").contains("hunter2"));
        let names: Vec<_> = told
            .labels
            .iter()
            .map(|label| (&*label.name, label.redacted))
            .collect();
        assert_eq!(
            names,
            [("l1", false), ("l_cookie", true), ("l_password", true)]
        );
        assert_eq!(
            (told.labels_withheld, told.labels_truncated),
            (Some(2), true)
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_files_never_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            json in "(\\{|\\}|\\[|\\]|:|,|\"(Name|Config|Labels|annotations|id|metadata|names)\"|\"x\"|1|null){0,40}",
        ) {
            let root = tempfile::tempdir().unwrap();
            let files = files(root.path(), &["*"]);
            for content in [bytes.as_slice(), json.as_bytes()] {
                for path in [
                    format!("var/lib/docker/containers/{A}/config.v2.json"),
                    format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{A}/config.json"),
                    "var/lib/containers/storage/overlay-containers/containers.json".to_owned(),
                    "etc/passwd".to_owned(),
                ] {
                    let path = root.path().join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, content).unwrap();
                }
                for owner in [None, Some(1000)] {
                    drop(files.find(&question(ContainerRuntime::Unspecified, owner), &mut |_| {}));
                }
            }
        }
    }
}
