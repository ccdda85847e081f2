//! Who this spool is: the agent id, which stays, and the epoch, which is made anew whenever sequences of the old one could
//! be used twice.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::codec::{Decoder, Encoder};
use super::entry::Epoch;
use super::slot::SlotFile;
use super::storage::{Fingerprint, Storage};

/// Name of the file.
pub(super) const FILE: &str = "identity";
const HALF_BYTES: usize = 4096;
const VERSION: u16 = 1;

/// What the host says of itself; the caller reads it, the spool only compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostIdentity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// `/etc/machine-id`; `None` if there is none.
    pub machine_id: Option<[u8; 16]>,
    /// `/sys/class/dmi/id/product_uuid`; `None` if there is none or it cannot be read.
    pub hardware_uuid: Option<[u8; 16]>,
    /// Agent id that the certificate for a central node names; `None` if there is no such certificate.
    pub agent_id: Option<[u8; 16]>,
}

/// Who a spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// That of the certificate, else random and made once; stays when the epoch changes, since packets of older epochs
    /// carry it.
    pub agent_id: [u8; 16],
    /// The epoch of packets that are sealed now.
    pub epoch: Epoch,
    /// When the identity file was made, wall clock, ns since 1970.
    pub created_ns: i64,
}

/// Why an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NewEpoch {
    /// There was no state, or nothing of it could be read.
    Created,
    /// `/etc/machine-id` is another: a clone.
    MachineId,
    /// The hardware UUID is another: a clone, or other hardware.
    Hardware,
    /// The identity file is a copy: the directory was restored or moved.
    Restored,
    /// The end of a stream was damaged or is missing: its last sequences may have been used.
    Tail,
    /// The disk could not be written: these packets were offered before they were durable.
    Memory,
    /// The certificate names another agent than before. Packets of older epochs keep the id that they have.
    AgentId,
}

impl NewEpoch {
    /// Its name in log and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::MachineId => "machine_id",
            Self::Hardware => "hardware",
            Self::Restored => "restored",
            Self::Tail => "tail",
            Self::Memory => "memory",
            Self::AgentId => "agent_id",
        }
    }
}

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) identity: Identity,
    /// Running number of the epoch among those of this spool.
    pub(super) ordinal: u64,
    machine: Option<[u8; 32]>,
    hardware: Option<[u8; 32]>,
    fingerprint: Fingerprint,
}

impl Stored {
    /// Why its epoch may not be used on this host, if so. What cannot be read now or could not be read then is no
    /// difference.
    pub(super) fn differs(&self, host: &HostIdentity, file: Fingerprint) -> Option<NewEpoch> {
        let differs = |stored: Option<[u8; 32]>, now: Option<[u8; 32]>| {
            stored.zip(now).is_some_and(|(stored, now)| stored != now)
        };
        if differs(self.machine, hash("machine-id", host.machine_id)) {
            Some(NewEpoch::MachineId)
        } else if differs(self.hardware, hash("hardware", host.hardware_uuid)) {
            Some(NewEpoch::Hardware)
        } else if self.fingerprint != file {
            Some(NewEpoch::Restored)
        } else {
            None
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u16(VERSION)
            .bytes(&self.identity.agent_id)
            .bytes(&self.identity.epoch.0)
            .i64(self.identity.created_ns)
            .u64(self.ordinal)
            .u64(self.fingerprint.inode)
            .i64(self.fingerprint.birth_ns);
        for hash in [self.machine, self.hardware] {
            out.u8(u8::from(hash.is_some()))
                .bytes(&hash.unwrap_or_default());
        }
        out.finish()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Decoder::new(bytes);
        if input.u16()? != VERSION {
            return None;
        }
        let identity = Identity {
            agent_id: input.array()?,
            epoch: Epoch(input.array()?),
            created_ns: input.i64()?,
        };
        let ordinal = input.u64()?;
        let fingerprint = Fingerprint {
            inode: input.u64()?,
            birth_ns: input.i64()?,
        };
        let mut hash = || -> Option<Option<[u8; 32]>> {
            let there = input.u8()? != 0;
            let hash = input.array()?;
            Some(there.then_some(hash))
        };
        Some(Self {
            identity,
            ordinal,
            machine: hash()?,
            hardware: hash()?,
            fingerprint,
        })
    }
}

/// Neither id leaves the host in the clear, nor stands in the file.
fn hash(what: &str, id: Option<[u8; 16]>) -> Option<[u8; 32]> {
    id.map(|id| {
        let mut hasher = Sha256::new();
        hasher.update(b"sensor spool ");
        hasher.update(what.as_bytes());
        hasher.update(id);
        hasher.finalize().into()
    })
}

/// What is on the disk, and which file it is; `None` if there is none or it is damaged.
pub(super) fn load<S: Storage>(storage: &S) -> io::Result<Option<(Stored, Fingerprint)>> {
    let path = Path::new(FILE);
    match SlotFile::open(storage, path, HALF_BYTES, false) {
        Ok((_, content)) => {
            let fingerprint = storage.fingerprint(path)?;
            Ok(content
                .and_then(|content| Stored::parse(&content))
                .map(|stored| (stored, fingerprint)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the identity; durable when it returns. The file is made when it is not there.
pub(super) fn save<S: Storage>(
    storage: &S,
    identity: Identity,
    ordinal: u64,
    host: &HostIdentity,
) -> io::Result<()> {
    let path = Path::new(FILE);
    let mut slot = match SlotFile::open(storage, path, HALF_BYTES, true) {
        Ok((slot, _)) => slot,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            SlotFile::create(storage, path, HALF_BYTES, &[])?
        }
        Err(error) => return Err(error),
    };
    let stored = Stored {
        identity,
        ordinal,
        machine: hash("machine-id", host.machine_id),
        hardware: hash("hardware", host.hardware_uuid),
        fingerprint: storage.fingerprint(path)?,
    };
    slot.write(&stored.encode())
}
