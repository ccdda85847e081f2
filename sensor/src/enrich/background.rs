//! Questions that may take long, answered by a thread of their own so that events never wait for them.
//!
//! The queue is bounded: a question that finds it full is refused and counted, and may be asked again later.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// One thread that answers questions of one kind, one after another.
#[derive(Debug)]
pub(crate) struct Background<K, V> {
    questions: SyncSender<K>,
    answers: Receiver<(K, V)>,
    pending: HashSet<K>,
    refused: u64,
}

impl<K, V> Background<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Send + 'static,
{
    /// Starts the thread. It ends when this is dropped, after the question at hand.
    ///
    /// # Errors
    /// What the system says if it has no room for a thread.
    pub(crate) fn spawn(
        name: &str,
        capacity: usize,
        mut work: impl FnMut(&K) -> V + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, asked) = sync_channel::<K>(capacity);
        // As many answers as questions can be on their way, the one at hand included: the thread never waits for us.
        let (answer, answers) = sync_channel(capacity.saturating_add(1));
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(question) = asked.recv() {
                    let value = work(&question);
                    if answer.send((question, value)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            questions,
            answers,
            pending: HashSet::new(),
            refused: 0,
        })
    }

    /// Asks, unless the same is asked already. False if the queue is full.
    pub(crate) fn ask(&mut self, question: &K) -> bool {
        if self.pending.contains(question) {
            return true;
        }
        match self.questions.try_send(question.clone()) {
            Ok(()) => {
                self.pending.insert(question.clone());
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.refused = self.refused.saturating_add(1);
                false
            }
        }
    }

    /// An answer that has come since, if any.
    pub(crate) fn answer(&mut self) -> Option<(K, V)> {
        let (question, value) = self.answers.try_recv().ok()?;
        self.pending.remove(&question);
        Some((question, value))
    }

    /// Questions without an answer yet.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Questions that found the queue full.
    pub(crate) const fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn answers_come_and_a_full_queue_refuses() {
        let (gate, wait) = sync_channel::<()>(0);
        let mut background = Background::spawn("test", 2, move |question: &u32| {
            wait.recv().unwrap();
            question * 2
        })
        .unwrap();
        assert!(background.ask(&1));
        assert!(background.ask(&1));
        assert_eq!(background.waiting(), 1);
        let deadline = Instant::now() + Duration::from_secs(10);
        // One is at hand or queued; two more fill the queue at the latest with the third.
        let taken = (2..=5).filter(|question| background.ask(question)).count();
        assert!((1..=2).contains(&taken));
        assert_eq!(background.refused(), u64::try_from(4 - taken).unwrap());
        let expected = background.waiting();
        let mut seen = Vec::new();
        while seen.len() < expected {
            if let Ok(()) = gate.try_send(()) {}
            if let Some(answer) = background.answer() {
                seen.push(answer);
            }
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(seen[0], (1, 2));
        assert_eq!(background.waiting(), 0);
    }
}
