//! What is asked of the generated types so often that it has a name.

use crate::v1;

impl v1::Event {
    /// Type of the event; unspecified when the body is of a newer schema.
    #[must_use]
    pub fn event_type(&self) -> v1::EventType {
        use v1::event::Body;
        match &self.body {
            Some(Body::Exec(_)) => v1::EventType::Exec,
            Some(Body::Exit(_)) => v1::EventType::Exit,
            Some(Body::Fork(_)) => v1::EventType::Fork,
            Some(Body::FileCreate(_)) => v1::EventType::FileCreate,
            Some(Body::Connect(_)) => v1::EventType::Connect,
            Some(Body::ModuleLoad(_)) => v1::EventType::ModuleLoad,
            Some(Body::Patch(_)) => v1::EventType::Patch,
            Some(Body::Aggregate(_)) => v1::EventType::Aggregate,
            None => v1::EventType::Unspecified,
        }
    }
}

impl v1::Absent {
    /// Says that the field of that number (see [`crate::field`]) is missing, and why.
    #[must_use]
    pub fn new(field: u32, reason: v1::AbsentReason) -> Self {
        Self {
            field,
            reason: reason.into(),
        }
    }
}

impl v1::FileInfo {
    /// Last part of the path: what follows the last slash.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.path
            .as_ref()
            .and_then(|path| path.rsplit(|byte| *byte == b'/').next())
    }

    /// Folder of the path: what stands before the last slash; `/` for files in the root. None when the path has no slash.
    #[must_use]
    pub fn dir(&self) -> Option<&[u8]> {
        let path = self.path.as_deref()?;
        match path.iter().rposition(|byte| *byte == b'/')? {
            0 => path.get(..1),
            slash => path.get(..slash),
        }
    }
}

impl v1::Process {
    /// Name for people: the last part of the image's path, else the kernel's short name.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.image
            .as_ref()
            .and_then(v1::FileInfo::name)
            .or(self.comm.as_deref())
    }

    /// A reference to this program, without a thread.
    #[must_use]
    pub fn reference(&self) -> v1::ProcessRef {
        v1::ProcessRef {
            unique_pid: Some(self.unique_pid.clone()),
            exec_id: self.exec_id,
            pid: self.pid,
            tid: None,
            start_boot_ns: Some(self.start_boot_ns),
            out_of_scope: false,
        }
    }
}

impl v1::FileType {
    /// Kind of file in a mode (`S_IFMT` of stat(2)); unspecified for bits that Linux does not use.
    #[must_use]
    pub fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharacterDevice,
            0o060_000 => Self::BlockDevice,
            _ => Self::Unspecified,
        }
    }
}
