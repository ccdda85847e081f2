//! What is known of containers beyond their identity: image, name, pod, labels.
//!
//! It is read from the files of their runtimes by a thread of its own, once for each container; who asks never waits. A
//! container that no file tells of yet is looked for again some times, a second apart, and then seldom. Everything is bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sensor_proto::field::container as number;
use sensor_proto::v1::{Absent, AbsentReason, Container, ContainerRuntime, Process};

use super::files::Files;
use super::{Place, Question};
use crate::config::ContainerConfig;
use crate::confine::{Confinement, Role};
use crate::enrich::background::Background;
use crate::enrich::environment::{Policy, PolicyError};
use crate::enrich::recent::Recent;
use crate::procfs::Proc;

/// Containers that are remembered: hosts of Kubernetes run some hundreds. At most some 8 KiB each.
const REMEMBERED: usize = 1024;
/// Containers that may wait to be looked for.
const QUEUE: usize = 256;
/// How often a container is looked for before it counts as unknown, and how far apart.
const TRIES: u8 = 5;
const APART: Duration = Duration::from_secs(1);
/// How long one that is unknown is not looked for again.
const NEGATIVE: Duration = Duration::from_secs(60);
/// How long the first answer is waited for: a file is read in a millisecond. When the reader hangs, nothing else does.
const AWAITED: Duration = Duration::from_millis(200);

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// No room for the thread.
    #[error("thread for the facts of containers")]
    Thread(#[from] std::io::Error),
    /// The built-in forms of secrets are refused.
    #[error("names of labels")]
    Labels(#[from] PolicyError),
}

/// What the files of its runtime say of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Whose files.
    pub(super) runtime: ContainerRuntime,
    /// In the words of the schema; identity and runtime are not filled.
    pub(super) told: Container,
}

/// The facts of a container, or why there are none.
pub(super) type Answer = Result<Facts, AbsentReason>;

#[derive(Debug)]
enum Known {
    Facts(Arc<Facts>),
    /// None yet: since when, how many answers have said so, and why.
    Nothing(Instant, u8, AbsentReason),
}

/// Counts and lengths, for `sensor status` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FactsGauge {
    /// Containers that are remembered, those without facts included.
    pub entries: usize,
    /// Forgotten since there were too many.
    pub evicted: u64,
    /// Containers being looked for.
    pub waiting: usize,
    /// Times that one was not looked for since too many were waiting.
    pub refused: u64,
    /// Times that one was found.
    pub found: u64,
    /// Times that no file told of one.
    pub unknown: u64,
    /// Times that a file was there and could not be read, or was not as its runtime writes it.
    pub unreadable: u64,
}

/// The facts of all containers that were asked for.
#[derive(Debug)]
pub struct ContainerFacts {
    search: Option<Background<Question, Answer>>,
    known: Recent<Question, Known>,
    /// To be looked for again, and when.
    again: VecDeque<(Instant, Question)>,
    apart: Duration,
    /// Answers taken in.
    answered: u64,
    /// Facts were wanted that may still come.
    unanswered: bool,
    found: u64,
    unknown: u64,
    unreadable: Arc<AtomicU64>,
}

impl ContainerFacts {
    /// No files are read: in a replay, or where the configuration says so.
    #[must_use]
    pub fn none() -> Self {
        Self {
            search: None,
            known: Recent::new(REMEMBERED),
            again: VecDeque::new(),
            apart: APART,
            answered: 0,
            unanswered: false,
            found: 0,
            unknown: 0,
            unreadable: Arc::default(),
        }
    }

    /// From the files that `config` names, below the root of the host at `root`. Of the values of labels `redact` says what is
    /// masked.
    ///
    /// # Errors
    /// [`FactsError`].
    pub fn new(
        config: &ContainerConfig,
        root: &std::path::Path,
        redact: &[String],
        proc: Proc,
        confinement: Confinement,
    ) -> Result<Self, FactsError> {
        if !config.files {
            return Ok(Self::none());
        }
        let labels = Policy::new(&config.labels, redact)?;
        let files = Files::new(config, root.to_owned(), labels, proc);
        let unreadable = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&unreadable);
        let mut confined = false;
        let search = Background::spawn("containers", QUEUE, move |question: &Question| {
            if !std::mem::replace(&mut confined, true) {
                confinement.enter(Role::Containers);
            }
            files.find(question, &mut |error| {
                counter.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(id = question.id, %error, "a file about a container says nothing");
            })
        })?;
        Ok(Self {
            search: Some(search),
            unreadable,
            ..Self::none()
        })
    }

    /// Whether a container lacks facts that may be there, or come.
    fn wanted(container: &Container) -> bool {
        container.image.is_none()
            && container
                .absent
                .iter()
                .find(|absent| absent.field == number::IMAGE)
                .is_none_or(|absent| absent.reason() == AbsentReason::Pending)
    }

    /// Adds to the container of a process what is known of it, or why nothing is. What is not known is looked for in the
    /// background ([`ContainerFacts::take_unanswered`] says so). `place`: that of the process, if it is at hand.
    pub fn complete(&mut self, process: &mut Process, place: Option<&Place>) {
        let Some(container) = &mut process.container else {
            return;
        };
        if !Self::wanted(container) {
            return;
        }
        let from_path;
        let question = match (place, &process.cgroup_path) {
            (Some(place), _) => place.question.as_ref(),
            (None, Some(path)) => {
                from_path = Place::of_path(path);
                from_path.question.as_ref()
            }
            (None, None) => None,
        };
        container
            .absent
            .retain(|absent| absent.field != number::IMAGE);
        let gap = |reason| Absent::new(number::IMAGE, reason);
        if self.search.is_none() {
            container.absent.push(gap(AbsentReason::NotCollected));
            return;
        }
        let Some(question) = question else {
            container.absent.push(gap(AbsentReason::NotSet));
            return;
        };
        self.settle();
        match self.known.find(question) {
            Some(Known::Facts(facts)) => apply(facts, container),
            Some(Known::Nothing(since, TRIES.., reason)) if since.elapsed() < NEGATIVE => {
                container.absent.push(gap(*reason));
            }
            Some(Known::Nothing(_, ..TRIES, _)) => {
                container.absent.push(gap(AbsentReason::Pending));
                self.unanswered = true;
            }
            Some(Known::Nothing(..)) | None => {
                let nothing = Known::Nothing(Instant::now(), 0, AbsentReason::NotSet);
                self.known.keep(question.clone(), nothing);
                self.look_for(question);
                container.absent.push(gap(AbsentReason::Pending));
                self.unanswered = true;
            }
        }
    }

    fn look_for(&mut self, question: &Question) {
        let asked = self
            .search
            .as_mut()
            .is_some_and(|search| search.ask(question));
        if !asked {
            self.again_later(question.clone());
        }
    }

    fn again_later(&mut self, question: Question) {
        if self.again.len() < REMEMBERED {
            self.again
                .push_back((Instant::now() + self.apart, question));
        }
    }

    /// The container of a process whose facts are on their way and will be there in a moment.
    #[must_use]
    pub fn awaited(&self, process: &Process) -> Option<Question> {
        let container = process.container.as_ref()?;
        if container.image.is_some() || !Self::wanted(container) {
            return None;
        }
        let question = Place::of_path(process.cgroup_path.as_deref()?).question?;
        self.is_awaited(&question).then_some(question)
    }

    /// Whether a container was asked for a moment ago and nothing was answered yet.
    #[must_use]
    pub fn is_awaited(&self, question: &Question) -> bool {
        matches!(self.known.find(question), Some(Known::Nothing(since, 0, _)) if since.elapsed() < AWAITED)
    }

    /// Whether, since this was asked last, facts were wanted that may still come.
    pub fn take_unanswered(&mut self) -> bool {
        std::mem::take(&mut self.unanswered)
    }

    /// Takes in what was found, looks again for what was not; how many answers there have been in all.
    pub fn settle(&mut self) -> u64 {
        while let Some((question, answer)) = self.search.as_mut().and_then(Background::answer) {
            self.answered = self.answered.saturating_add(1);
            let known = match answer {
                Ok(facts) => {
                    self.found = self.found.saturating_add(1);
                    Known::Facts(Arc::new(facts))
                }
                Err(reason) => {
                    if reason == AbsentReason::NotSet {
                        self.unknown = self.unknown.saturating_add(1);
                    }
                    let tries = match self.known.find(&question) {
                        Some(Known::Nothing(_, tries, _)) => tries.saturating_add(1),
                        Some(Known::Facts(_)) | None => TRIES,
                    };
                    if tries < TRIES {
                        self.again_later(question.clone());
                    }
                    Known::Nothing(Instant::now(), tries, reason)
                }
            };
            self.known.keep(question, known);
        }
        while self
            .again
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            if let Some((_, question)) = self.again.pop_front() {
                self.look_for(&question);
            }
        }
        self.answered
    }

    /// Counts and lengths.
    #[must_use]
    pub fn gauge(&self) -> FactsGauge {
        FactsGauge {
            entries: self.known.len(),
            evicted: self.known.evicted(),
            waiting: self.search.as_ref().map_or(0, Background::waiting),
            refused: self.search.as_ref().map_or(0, Background::refused),
            found: self.found,
            unknown: self.unknown,
            unreadable: self.unreadable.load(Ordering::Relaxed),
        }
    }
}

/// What the path told stands; the rest is the files'.
fn apply(facts: &Facts, container: &mut Container) {
    let told = &facts.told;
    if container.runtime() == ContainerRuntime::Unspecified {
        container.set_runtime(facts.runtime);
    }
    if container.pod_id.is_none() {
        container.pod_id.clone_from(&told.pod_id);
    }
    if told.name.is_some() {
        container.name.clone_from(&told.name);
    }
    container.image.clone_from(&told.image);
    container.image_digest.clone_from(&told.image_digest);
    container.image_id.clone_from(&told.image_id);
    container.pod_name.clone_from(&told.pod_name);
    container.pod_namespace.clone_from(&told.pod_namespace);
    container.labels.clone_from(&told.labels);
    container.labels_withheld = told.labels_withheld;
    container.labels_truncated = told.labels_truncated;
    container.absent.extend(told.absent.iter().cloned());
}

#[cfg(test)]
impl ContainerFacts {
    /// Of the files below `root`, with the default places; those not found are looked for again only when told so.
    pub(crate) fn patient(root: &std::path::Path) -> Self {
        let table = crate::config::file::ContainerTable::default();
        let config = ContainerConfig {
            files: true,
            labels: table.labels,
            docker: table.docker,
            containerd: table.containerd,
            storage: table.storage,
        };
        let proc = Proc::default();
        let facts = Self::new(&config, root, &[], proc, Confinement::default()).unwrap();
        Self {
            apart: Duration::from_secs(3600),
            ..facts
        }
    }

    /// Of a thread that does this before each answer, and never finds anything.
    pub(crate) fn of_reader(work: impl Fn() + Send + 'static) -> Self {
        let search = Background::spawn("test", QUEUE, move |_: &Question| {
            work();
            Err(AbsentReason::NotSet)
        });
        Self {
            search: Some(search.unwrap()),
            ..Self::none()
        }
    }

    /// Looks again, at the next settling.
    pub(crate) fn again_now(&mut self) {
        for (due, _) in &mut self.again {
            *due = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1b0a8c5d7e9f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a";

    fn process(path: &str) -> Process {
        let place = Place::of_path(path.as_bytes());
        Process {
            cgroup_path: Some(place.path),
            container: place.container,
            ..Process::default()
        }
    }

    fn reason(process: &Process) -> Option<AbsentReason> {
        let container = process.container.as_ref().unwrap();
        let mut gaps = container.absent.iter();
        let gap = gaps.find(|absent| absent.field == number::IMAGE);
        gap.map(Absent::reason)
    }

    fn wait(facts: &mut ContainerFacts) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while facts.gauge().waiting > 0 {
            facts.settle();
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    fn docker(root: &std::path::Path, content: &str) {
        let folder = root.join(format!("var/lib/docker/containers/{ID}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.v2.json"), content).unwrap();
    }

    #[test]
    fn found_in_the_background_once_for_each_container() {
        let root = tempfile::tempdir().unwrap();
        docker(root.path(), r#"{"Name":"/web","Config":{"Image":"nginx"}}"#);
        let mut facts = ContainerFacts::patient(root.path());
        let path = format!("/kubepods/burstable/pod0f9e8d7c-6b5a-4938-2716-050403020100/{ID}");
        let mut first = process(&path);
        facts.complete(&mut first, None);
        assert_eq!(reason(&first), Some(AbsentReason::Pending));
        assert!(facts.take_unanswered());
        assert!(facts.awaited(&first).is_some());
        wait(&mut facts);
        assert_eq!(facts.awaited(&first), None);
        facts.complete(&mut first, None);
        let container = first.container.clone().unwrap();
        assert_eq!(container.runtime(), ContainerRuntime::Docker);
        assert_eq!(container.image.as_deref(), Some("nginx"));
        assert_eq!(container.name.as_deref(), Some("web"));
        assert_eq!(container.absent, []);
        assert!(!facts.take_unanswered());
        // Not read again.
        docker(root.path(), "");
        let mut second = process(&path);
        facts.complete(&mut second, None);
        assert_eq!(second.container, first.container);
        let gauge = facts.gauge();
        assert_eq!((gauge.entries, gauge.found, gauge.waiting), (1, 1, 0));
    }

    #[test]
    fn looked_for_some_times_and_then_given_up() {
        let root = tempfile::tempdir().unwrap();
        let mut facts = ContainerFacts::patient(root.path());
        let mut process = process(&format!("/docker/{ID}"));
        for _ in 0..TRIES {
            facts.complete(&mut process, None);
            assert_eq!(reason(&process), Some(AbsentReason::Pending));
            facts.again_now();
            facts.settle();
            wait(&mut facts);
        }
        facts.complete(&mut process, None);
        assert_eq!(reason(&process), Some(AbsentReason::NotSet));
        assert_eq!(facts.gauge().unknown, u64::from(TRIES));
        // Nor is it asked for again now, even if there is something.
        docker(root.path(), "{}");
        facts.again_now();
        facts.settle();
        assert_eq!(facts.gauge().waiting, 0);
    }

    #[test]
    fn a_hostile_file_is_counted_and_a_reason() {
        let root = tempfile::tempdir().unwrap();
        docker(root.path(), "[1, 2");
        let mut facts = ContainerFacts::patient(root.path());
        let mut process = process(&format!("/docker/{ID}"));
        for _ in 0..TRIES {
            facts.complete(&mut process, None);
            facts.again_now();
            facts.settle();
            wait(&mut facts);
        }
        facts.complete(&mut process, None);
        assert_eq!(reason(&process), Some(AbsentReason::ReadFailed));
        let gauge = facts.gauge();
        assert_eq!(
            (gauge.unreadable, gauge.unknown, gauge.found),
            (u64::from(TRIES), 0, 0)
        );
    }

    #[test]
    fn what_no_file_tells_of_is_not_looked_for() {
        let mut none = ContainerFacts::none();
        let mut inside = process(&format!("/docker/{ID}"));
        none.complete(&mut inside, None);
        assert_eq!(reason(&inside), Some(AbsentReason::NotCollected));
        let root = tempfile::tempdir().unwrap();
        let mut facts = ContainerFacts::patient(root.path());
        for path in [
            "/lxc.payload.web".to_owned(),
            format!("/docker/{ID}/docker/{ID}"),
        ] {
            let mut inside = process(&path);
            facts.complete(&mut inside, None);
            assert_eq!(reason(&inside), Some(AbsentReason::NotSet));
        }
        let mut outside = process("/system.slice");
        facts.complete(&mut outside, None);
        assert_eq!(outside.container, None);
        assert_eq!(facts.gauge(), FactsGauge::default());
    }

    #[test]
    fn nothing_grows_without_bound() {
        let root = tempfile::tempdir().unwrap();
        let mut facts = ContainerFacts::patient(root.path());
        for number in 0..REMEMBERED + 10 {
            let mut process = process(&format!("/docker/{number:064x}"));
            facts.complete(&mut process, None);
            assert_eq!(reason(&process), Some(AbsentReason::Pending));
        }
        wait(&mut facts);
        let gauge = facts.gauge();
        assert_eq!(gauge.entries, REMEMBERED);
        assert!(gauge.evicted >= 10);
        assert!(facts.again.len() <= REMEMBERED);
    }
}
