//! The writer: one thread that owns the store's writing connection. Takes jobs from a bounded queue, puts many into one
//! transaction, and answers each after the commit is durable. Refuses to look into packets: they come prepared.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sensor_proto::v1;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::agent_id::Peer;
use crate::clock::{WallWatch, now_ns};
use crate::packet::{Digest, Place};
use crate::store::retention::{self, Retention};
use crate::store::write::{self, Prepared, Stored};
use crate::store::{self, StoreError};

/// Jobs that wait for the writer at most, over all connections.
const QUEUE: usize = 64;
/// Packets of one transaction at most.
const BATCH_PACKETS: usize = 128;
/// Bytes of packets of one transaction at most: bounds what a commit writes at once.
const BATCH_BYTES: usize = 16 << 20;
/// How often the store is looked through for what is too old or too much.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// Steps of giving up between two batches, so that storing goes on while much is given up.
const RETENTION_STEPS: u32 = 8;

/// What the writer does.
#[derive(Debug)]
pub enum Job {
    /// Stores a packet.
    Packet {
        /// Who sent it.
        peer: Arc<Peer>,
        /// The packet.
        packet: Box<Prepared>,
        /// Where the outcome goes.
        done: oneshot::Sender<Stored>,
    },
    /// Remembers a packet that was refused for good.
    Refusal {
        /// Who sent it.
        peer: Arc<Peer>,
        /// Where it would belong, if that could be read.
        place: Option<Place>,
        /// Digest of its bytes.
        digest: Digest,
        /// Why.
        reason: v1::RefusalReason,
        /// Why, for people.
        detail: String,
    },
    /// An agent begins a delivery.
    Hello {
        /// Who.
        peer: Arc<Peer>,
        /// What it will send first.
        positions: Vec<v1::StreamPosition>,
        /// Where the last durable positions go.
        done: oneshot::Sender<Vec<v1::StreamPosition>>,
    },
    /// An agent tells of its state.
    Synchronize {
        /// Who.
        peer: Arc<Peer>,
        /// Its state.
        request: Box<v1::SyncRequest>,
        /// Where newer settings go.
        done: oneshot::Sender<Vec<v1::Settings>>,
    },
    /// Time has passed: the store is looked through for what is too old or too much.
    Look,
}

/// The store took nothing: try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What the writer counts. Each is a counter since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets stored.
    pub stored: AtomicU64,
    /// Packets that were there.
    pub duplicates: AtomicU64,
    /// Packets whose place another one had.
    pub conflicts: AtomicU64,
    /// Packets refused for good.
    pub refused: AtomicU64,
    /// Jobs that failed since the store took nothing.
    pub failed: AtomicU64,
    /// Transactions.
    pub commits: AtomicU64,
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} packets stored, {} duplicates, {} conflicts, {} refused, {} failed, in {} commits",
            of(&self.stored),
            of(&self.duplicates),
            of(&self.conflicts),
            of(&self.refused),
            of(&self.failed),
            of(&self.commits)
        )
    }
}

/// Sends jobs to the writer. Cheap to clone; the writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    counters: Arc<Counters>,
}

/// The disk that the store is on, and what is left free on it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The data folder.
    pub folder: PathBuf,
    /// With fewer free bytes nothing is stored: giving up old packets needs room, too.
    pub reserve_bytes: u64,
}

impl Writer {
    /// Starts the writer. Its thread ends, after the jobs that wait, when every clone of the sender is gone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        connection: Connection,
        retention: Retention,
        disk: Disk,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let work = Work {
            connection,
            retention,
            disk,
            counters: Arc::clone(&counters),
            full: false,
            wall: WallWatch::new(Instant::now(), now_ns()),
        };
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || work.run(queue))?;
        Ok((Self { jobs, counters }, thread))
    }

    /// Hands a job over; waits while the queue is full.
    ///
    /// # Errors
    /// [`Refused`] when the writer is gone.
    pub async fn send(&self, job: Job) -> Result<(), Refused> {
        self.jobs.send(job).await.map_err(|_error| Refused)
    }

    /// Has the store looked through now and then, also when no agent sends anything; ends with the writer.
    pub fn look_regularly(&self) -> impl Future<Output = ()> + use<> {
        // Not a sender, or the writer would never end.
        let jobs = self.jobs.downgrade();
        async move {
            loop {
                tokio::time::sleep(RETENTION_EVERY).await;
                let Some(jobs) = jobs.upgrade() else { return };
                if jobs.send(Job::Look).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

struct Work {
    connection: Connection,
    retention: Retention,
    disk: Disk,
    counters: Arc<Counters>,
    /// The last commit failed or the disk was too full: said once.
    full: bool,
    wall: WallWatch,
}

/// What is told after the commit.
enum Answer {
    Nothing,
    Packet(oneshot::Sender<Stored>, Stored),
    Refusal,
    Hello(
        oneshot::Sender<Vec<v1::StreamPosition>>,
        Vec<v1::StreamPosition>,
    ),
    Synchronize(oneshot::Sender<Vec<v1::Settings>>, Vec<v1::Settings>),
}

impl Work {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut looked = Instant::now();
        let mut more = true;
        loop {
            // While much is to be given up, nobody is waited for.
            let job = match queue.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if more => {
                    more = self.give_up();
                    looked = Instant::now();
                    continue;
                }
                Err(TryRecvError::Empty) => match queue.blocking_recv() {
                    Some(job) => job,
                    None => break,
                },
            };
            if matches!(job, Job::Look) {
                more = true;
                continue;
            }
            let mut bytes = 0;
            let mut batch = vec![job];
            while batch.len() < BATCH_PACKETS && bytes < BATCH_BYTES {
                let Ok(job) = queue.try_recv() else { break };
                match &job {
                    Job::Packet { packet, .. } => bytes = packet.byte_len().saturating_add(bytes),
                    Job::Look => {
                        more = true;
                        continue;
                    }
                    Job::Refusal { .. } | Job::Hello { .. } | Job::Synchronize { .. } => {}
                }
                batch.push(job);
            }
            self.batch(batch);
            if more || looked.elapsed() > RETENTION_EVERY {
                more = self.give_up();
                looked = Instant::now();
            }
        }
        if let Err(error) = self
            .connection
            .pragma_update(None, "wal_checkpoint", "TRUNCATE")
        {
            tracing::debug!(%error, "the log stays beside the store");
        }
    }

    fn batch(&mut self, batch: Vec<Job>) {
        if self.disk_is_full() {
            return self.refuse(batch);
        }
        match self.commit(batch) {
            Ok(answers) => {
                self.full = false;
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                for answer in answers {
                    self.answer(answer);
                }
            }
            Err(error) => {
                // The senders of answers went down with the batch: each waiting job learns that it failed.
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                if !self.full {
                    tracing::error!(error = %chain(&error), "nothing is stored; agents are told to wait");
                }
                self.full = true;
            }
        }
    }

    fn disk_is_full(&mut self) -> bool {
        let free = retention::free_bytes(&self.disk.folder);
        let full = free.is_some_and(|free| free < self.disk.reserve_bytes);
        if full && !self.full {
            tracing::error!(
                free_bytes = free,
                reserve_bytes = self.disk.reserve_bytes,
                "the disk is full; nothing is stored, agents are told to wait"
            );
        }
        if full {
            self.full = true;
        }
        full
    }

    fn refuse(&mut self, batch: Vec<Job>) {
        let failed = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.counters.failed.fetch_add(failed, Ordering::Relaxed);
        // Dropping the senders tells each waiting job.
        drop(batch);
        if let Err(error) = self.give_up_now() {
            tracing::debug!(error = %chain(&error), "giving up old packets failed");
        }
    }

    /// Does all jobs in one transaction. A job that fails by itself is undone alone, and its sender dropped.
    fn commit(&mut self, batch: Vec<Job>) -> Result<Vec<Answer>, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut answers = Vec::with_capacity(batch.len());
        for job in batch {
            transaction.prepare_cached("SAVEPOINT job")?.execute([])?;
            match do_job(&transaction, job) {
                Ok(answer) => answers.push(answer),
                Err(StoreError::Failed(error)) => {
                    tracing::error!(error = %chain(&error), "a job failed; its agent is told to wait");
                    self.counters.failed.fetch_add(1, Ordering::Relaxed);
                    transaction.prepare_cached("ROLLBACK TO job")?.execute([])?;
                }
                Err(error) => return Err(error),
            }
            transaction.prepare_cached("RELEASE job")?.execute([])?;
        }
        transaction.commit()?;
        Ok(answers)
    }

    fn answer(&self, answer: Answer) {
        // Who does not listen any more has gone: the packet is stored all the same.
        let gone = match answer {
            Answer::Nothing => false,
            Answer::Packet(done, stored) => {
                let counter = match stored {
                    Stored::New => &self.counters.stored,
                    Stored::Duplicate => &self.counters.duplicates,
                    Stored::Conflict => &self.counters.conflicts,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                done.send(stored).is_err()
            }
            Answer::Refusal => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            Answer::Hello(done, positions) => done.send(positions).is_err(),
            Answer::Synchronize(done, settings) => done.send(settings).is_err(),
        };
        if gone {
            tracing::debug!("an agent left before its answer");
        }
    }

    /// Gives up what is too old or too much; says whether more is to be done.
    fn give_up(&mut self) -> bool {
        match self.give_up_now() {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "giving up old packets failed");
                false
            }
        }
    }

    fn give_up_now(&mut self) -> Result<bool, StoreError> {
        // A clock that jumps ahead makes nothing old: it may jump back.
        let retention = if self.wall.is_steady(Instant::now(), now_ns()) {
            self.retention
        } else {
            Retention {
                age: Duration::MAX,
                account_age: Duration::MAX,
                ..self.retention
            }
        };
        for _ in 0..RETENTION_STEPS {
            if !retention::step(&mut self.connection, &retention)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn do_job(connection: &Connection, job: Job) -> Result<Answer, StoreError> {
    Ok(match job {
        Job::Look => Answer::Nothing,
        Job::Packet { peer, packet, done } => {
            let agent = write::agent(connection, &peer)?;
            Answer::Packet(done, write::packet(connection, agent, &packet)?)
        }
        Job::Refusal {
            peer,
            place,
            digest,
            reason,
            detail,
        } => {
            let agent = write::agent(connection, &peer)?;
            write::refusal(connection, agent, place, &digest, reason, &detail)?;
            Answer::Refusal
        }
        Job::Hello {
            peer,
            positions,
            done,
        } => {
            write::agent(connection, &peer)?;
            let mut last = Vec::new();
            for position in &positions {
                last.extend(write::last_durable(
                    connection,
                    peer.agent_id.as_bytes(),
                    position,
                )?);
            }
            Answer::Hello(done, last)
        }
        Job::Synchronize {
            peer,
            request,
            done,
        } => {
            let agent = write::agent(connection, &peer)?;
            Answer::Synchronize(done, write::synchronize(connection, agent, &request)?)
        }
    })
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Opens the store of a folder for the one writer.
///
/// # Errors
/// [`StoreError`].
pub fn open(disk: &Disk) -> Result<Connection, StoreError> {
    store::create(&disk.folder)
}
