//! A session whose work is done by a task: packets go in, outcomes come out, and the task ends with the fault that ends the
//! session. For receivers whose client is not a pair of streams. Refuses to hold more than the worker has on the way.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::sink::delivery::{Fault, MAX_IN_FLIGHT, Outcome};
use crate::spool::{Entry, PacketId};

/// Packets for the task; closed when the session is over.
pub type Packets = mpsc::Receiver<Entry>;
/// What became of them.
pub type Outcomes = mpsc::Sender<(PacketId, Outcome)>;

/// A session under way.
#[derive(Debug)]
pub struct Piped {
    packets: mpsc::Sender<Entry>,
    outcomes: mpsc::Receiver<(PacketId, Outcome)>,
    task: JoinHandle<Fault>,
}

impl Drop for Piped {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Piped {
    /// Starts the task, which is stopped at its next wait when the session is dropped. Needs a runtime.
    pub fn start<T>(task: impl FnOnce(Packets, Outcomes) -> T) -> Self
    where
        T: Future<Output = Fault> + Send + 'static,
    {
        // The worker has no more than so many on the way: neither side ever waits for room.
        let (packets, queue) = mpsc::channel(MAX_IN_FLIGHT);
        let (answers, outcomes) = mpsc::channel(MAX_IN_FLIGHT);
        Self {
            packets,
            outcomes,
            task: tokio::spawn(task(queue, answers)),
        }
    }

    /// Hands over a packet; never waits.
    ///
    /// # Errors
    /// When more is on the way than the worker may send.
    pub fn send(&mut self, packet: &Entry) -> Result<(), Fault> {
        match self.packets.try_send(packet.clone()) {
            // A task that has ended says why in its fault.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(error @ mpsc::error::TrySendError::Full(_)) => Err(Fault::of("closed", &error)),
        }
    }

    /// The next outcome; may be dropped while it waits.
    ///
    /// # Errors
    /// The fault that ended the session.
    pub async fn outcome(&mut self) -> Result<(PacketId, Outcome), Fault> {
        if let Some(outcome) = self.outcomes.recv().await {
            return Ok(outcome);
        }
        // It let go of the outcomes: it has ended, or is about to.
        Err((&mut self.task)
            .await
            .unwrap_or_else(|error| Fault::of("closed", &error)))
    }
}
