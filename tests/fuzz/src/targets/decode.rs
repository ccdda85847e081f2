//! A sample as it comes out of a ring, to an event, to JSON.

use sensor::event::{self, Context};
use sensor_common::layout::{Field, KernelLayout};
use sensor_common::record::{
    ConnectRecord, ExecRecord, ExitRecord, FileCloseRecord, FileCreateRecord, ForkRecord,
    ModuleLoadRecord, Record, RecordRef, ScriptRecord, Text, TextRef,
};
use sensor_proto::json::write_json;
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

/// Parses a sample, converts it with a layout that has every field and with one that has none, and writes it as JSON.
pub fn run(sample: &[u8]) {
    let Ok(record) = RecordRef::parse(sample) else {
        return;
    };
    let resolved = KernelLayout {
        values: [0; Field::COUNT],
    };
    for layout in [&KernelLayout::EMPTY, &resolved] {
        let context = Context {
            layout,
            wall_minus_boot_ns: i64::from(record.header().cpu) << 40,
        };
        let event = convert(&context, &record);
        let mut text = Vec::new();
        write_json(&event, &mut text);
        let whole: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert!(whole.is_object());
    }
}

/// The event of a record, as far as the record alone tells it.
#[must_use]
pub fn convert(context: &Context<'_>, record: &RecordRef<'_>) -> v1::Event {
    let kind = record.kind();
    let backend = v1::Backend::Tracepoint;
    let mut event = event::envelope(context, record.header(), kind.lane(), backend);
    event.body = match record {
        RecordRef::Exec(exec) => {
            let image = event::file_info(context, &exec.head.file, exec.text(0));
            assert!(image.absent.len() < 30, "{image:?}");
            event.io_uring = event::by_io_uring(&exec.head.subject);
            Some(Body::Exec(event::exec(exec)))
        }
        RecordRef::Exit(exit) => Some(Body::Exit(event::exit(context, &exit.head))),
        RecordRef::Fork(fork) => Some(Body::Fork(event::fork(&fork.head))),
        RecordRef::Script(script) => Some(Body::FileCreate(v1::FileCreate {
            file: Some(event::file_info(context, &script.head.file, script.text(0))),
            ..v1::FileCreate::default()
        })),
        RecordRef::FileCreate(created) => {
            Some(Body::FileCreate(event::file_create(context, created)))
        }
        RecordRef::FileClose(closed) => {
            let nothing = TextRef {
                bytes: b"",
                text: Text::default(),
            };
            let mut file = v1::FileInfo::default();
            event::merge_closed(
                &mut file,
                event::file_info(context, &closed.head.file, nothing),
            );
            Some(Body::FileCreate(v1::FileCreate {
                file: Some(file),
                ..v1::FileCreate::default()
            }))
        }
        RecordRef::Connect(connect) => Some(Body::Connect(event::connect(connect))),
        RecordRef::ModuleLoad(load) => Some(Body::ModuleLoad(event::module_load(context, load))),
    };
    event
}

/// Makes the size in the header that of the sample.
#[expect(clippy::ptr_arg, reason = "others add and remove bytes")]
pub fn repair(sample: &mut Vec<u8>) {
    let length = u32::try_from(sample.len()).unwrap_or(u32::MAX);
    if let Some(size) = sample.get_mut(4..8) {
        size.copy_from_slice(&length.to_ne_bytes());
    }
}

/// A record of each kind, empty and with strings.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    fn both<T: Record>(texts: impl Fn(&mut T) -> Vec<&mut Text>) -> [Vec<u8>; 2] {
        [b"".as_slice(), b"/some/where"].map(|string| {
            let mut head = T::read_from_bytes(&vec![0; size_of::<T>()]).expect("a head of zeros");
            let mut tail = Vec::new();
            for text in texts(&mut head) {
                text.len = u32::try_from(string.len()).expect("short");
                text.true_len = text.len;
                tail.extend_from_slice(string);
            }
            let mut sample = head.as_bytes().to_vec();
            sample.extend(tail);
            if let Some(kind) = sample.get_mut(0..2) {
                kind.copy_from_slice(&(T::KIND as u16).to_ne_bytes());
            }
            repair(&mut sample);
            sample
        })
    }
    [
        both(|head: &mut ExecRecord| {
            vec![
                &mut head.path,
                &mut head.filename,
                &mut head.interpreter,
                &mut head.working_directory,
                &mut head.arguments,
                &mut head.environment,
            ]
        }),
        both(|_: &mut ExitRecord| Vec::new()),
        both(|_: &mut ForkRecord| Vec::new()),
        both(|head: &mut ScriptRecord| vec![&mut head.path]),
        both(|head: &mut FileCreateRecord| vec![&mut head.path, &mut head.other]),
        both(|_: &mut FileCloseRecord| Vec::new()),
        both(|head: &mut ConnectRecord| vec![&mut head.path]),
        both(|head: &mut ModuleLoadRecord| vec![&mut head.path]),
    ]
    .concat()
}
