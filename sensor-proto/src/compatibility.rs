//! Old readers read new writers and the other way round: what one side does not know is passed over, what both know stays equal.

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
};

use crate::sample::{Filler, pool};
use crate::v1;

fn field(name: &str, number: i32, r#type: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(r#type.into()),
        ..Default::default()
    }
}

/// A later schema: a new field of each wire type in every message, a new value in every enumeration, a new type of event.
fn newer() -> DescriptorPool {
    let mut set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    for file in set
        .file
        .iter_mut()
        .filter(|file| file.package() == "sensor.v1")
    {
        for message in &mut file.message_type {
            message.field.push(field("new_number", 5_000, Type::Uint64));
            let label = Some(Label::Repeated.into());
            let list = FieldDescriptorProto {
                label,
                ..field("new_list", 5_001, Type::Bytes)
            };
            message.field.push(list);
            message
                .field
                .push(field("new_fixed32", 5_002, Type::Fixed32));
            message
                .field
                .push(field("new_fixed64", 5_003, Type::Fixed64));
        }
        for declared in &mut file.enum_type {
            declared.value.push(EnumValueDescriptorProto {
                name: Some(format!("{}_NEW", declared.name())),
                number: Some(999),
                ..Default::default()
            });
        }
        let event = file
            .message_type
            .iter_mut()
            .find(|message| message.name() == "Event");
        let Some(event) = event else {
            continue;
        };
        event.reserved_range.clear();
        event.reserved_name.clear();
        let row = FieldDescriptorProto {
            type_name: Some(".sensor.v1.Ptrace".to_owned()),
            oneof_index: Some(0),
            ..field("ptrace", 104, Type::Message)
        };
        event.field.push(row);
        file.message_type.push(DescriptorProto {
            name: Some("Ptrace".to_owned()),
            field: vec![field("request", 1, Type::Uint32)],
            ..Default::default()
        });
    }
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

/// An earlier schema: types of events, messages' last fields and enumerations' last values are not there yet.
fn older() -> DescriptorPool {
    let mut set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    for file in set
        .file
        .iter_mut()
        .filter(|file| file.package() == "sensor.v1")
    {
        for message in &mut file.message_type {
            match message.name() {
                "Event" => message.field.retain(|field| field.number() < 190),
                "Patch" => {}
                _ => {
                    message.field.retain(|field| field.number() < 15);
                    // The oneof that the compiler made for each `optional` field goes with it.
                    let used: Vec<_> = message
                        .field
                        .iter()
                        .filter_map(|field| field.oneof_index)
                        .collect();
                    let mut index = 0;
                    message.oneof_decl.retain(|_| {
                        index += 1;
                        used.contains(&(index - 1))
                    });
                    for field in &mut message.field {
                        let before = |old: i32| used.iter().filter(|other| **other < old).count();
                        field.oneof_index =
                            field.oneof_index.map(|old| before(old).try_into().unwrap());
                    }
                }
            }
        }
        for declared in &mut file.enum_type {
            declared.value.truncate(2);
        }
    }
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

fn event_of(pool: &DescriptorPool) -> prost_reflect::MessageDescriptor {
    pool.get_message_by_name("sensor.v1.Event").unwrap()
}

/// The message without what the newer schema added.
fn without_news(message: &DynamicMessage) -> DynamicMessage {
    let mut out = DynamicMessage::new(message.descriptor());
    let strip = |value: &Value| {
        let inner = value.as_message().map(without_news);
        inner.map_or_else(|| value.clone(), Value::Message)
    };
    for (field, value) in message.fields() {
        if field.name().starts_with("new_") || field.name() == "ptrace" {
            continue;
        }
        let list = value
            .as_list()
            .map(|list| Value::List(list.iter().map(strip).collect()));
        let value = list.unwrap_or_else(|| strip(value));
        out.set_field(&field, value);
    }
    out
}

#[test]
fn this_reader_reads_a_newer_writer() {
    let newer = newer();
    let mut unknown_types = 0;
    for seed in 0..300 {
        let message = Filler::new(seed, true).message(&event_of(&newer));
        let encoded = message.encode_to_vec();
        let event = v1::Event::decode(encoded.as_slice()).unwrap();

        // What both know is equal, and nothing else is left.
        let known = DynamicMessage::decode(event_of(&newer), event.encode_to_vec().as_slice());
        assert!(known.unwrap() == without_news(&message), "seed {seed}");

        // A type of event that this reader does not know: the event is there, without body.
        if message.has_field_by_name("ptrace") {
            unknown_types += 1;
            assert_eq!(
                (&event.body, event.event_type()),
                (&None, v1::EventType::Unspecified)
            );
        } else {
            assert!(event.body.is_some());
        }
        let mut json = Vec::new();
        crate::json::write_json(&event, &mut json);
        serde_json::from_slice::<serde_json::Value>(&json).unwrap();
    }
    assert!(
        unknown_types > 10,
        "the new type came up {unknown_types} times"
    );
}

#[test]
fn a_newer_reader_reads_this_writer() {
    let newer = newer();
    for seed in 0..300 {
        let message = Filler::new(seed, true).message(&event_of(&pool()));
        let encoded = v1::Event::decode(message.encode_to_vec().as_slice())
            .unwrap()
            .encode_to_vec();
        let read = DynamicMessage::decode(event_of(&newer), encoded.as_slice()).unwrap();
        assert_eq!(read.unknown_fields().count(), 0);
        assert!(!read.has_field_by_name("new_list"));
        // Nothing was lost or changed on the way.
        let back =
            DynamicMessage::decode(event_of(&pool()), read.encode_to_vec().as_slice()).unwrap();
        assert!(back == message, "seed {seed}");
    }
}

#[test]
fn an_older_reader_reads_this_writer() {
    let older = older();
    let mut unknown_types = 0;
    for seed in 0..300 {
        let message = Filler::new(seed, true).message(&event_of(&pool()));
        let encoded = v1::Event::decode(message.encode_to_vec().as_slice())
            .unwrap()
            .encode_to_vec();
        let read = DynamicMessage::decode(event_of(&older), encoded.as_slice()).unwrap();
        unknown_types += usize::from(read.unknown_fields().count() > 0);
        assert_eq!(
            message.get_field_by_name("time_ns"),
            read.get_field_by_name("time_ns")
        );
        // What it did not understand it can pass on whole.
        let back = v1::Event::decode(read.encode_to_vec().as_slice()).unwrap();
        assert_eq!(back, v1::Event::decode(encoded.as_slice()).unwrap());
    }
    assert!(
        unknown_types > 10,
        "unknown fields came up {unknown_types} times"
    );
}

#[test]
fn this_reader_reads_an_older_writer() {
    let older = older();
    for seed in 0..300 {
        let message = Filler::new(seed, true).message(&event_of(&older));
        let encoded = message.encode_to_vec();
        let event = v1::Event::decode(encoded.as_slice()).unwrap();
        let back =
            DynamicMessage::decode(event_of(&older), event.encode_to_vec().as_slice()).unwrap();
        assert!(back == message, "seed {seed}");
    }
}

/// What a packet is made of, beside its events.
fn packet_messages() -> [&'static str; 3] {
    ["PacketHeader", "PacketBody", "TelemetryPacket"]
}

/// Decodes with this build's types and encodes again.
fn through_this_build(name: &str, encoded: &[u8]) -> Vec<u8> {
    match name {
        "PacketHeader" => v1::PacketHeader::decode(encoded).unwrap().encode_to_vec(),
        "PacketBody" => v1::PacketBody::decode(encoded).unwrap().encode_to_vec(),
        "TelemetryPacket" => v1::TelemetryPacket::decode(encoded)
            .unwrap()
            .encode_to_vec(),
        other => panic!("{other} is not compared"),
    }
}

fn of_packet(pool: &DescriptorPool, name: &str) -> prost_reflect::MessageDescriptor {
    pool.get_message_by_name(&format!("sensor.v1.{name}"))
        .unwrap()
}

#[test]
fn packets_of_newer_and_older_writers_are_read() {
    let (newer, older) = (newer(), older());
    for name in packet_messages() {
        for seed in 0..25 {
            let message = Filler::new(seed, true).message(&of_packet(&newer, name));
            let known = through_this_build(name, &message.encode_to_vec());
            let known = DynamicMessage::decode(of_packet(&newer, name), known.as_slice()).unwrap();
            assert!(known == without_news(&message), "{name}, seed {seed}");

            let message = Filler::new(seed, true).message(&of_packet(&older, name));
            let known = through_this_build(name, &message.encode_to_vec());
            let known = DynamicMessage::decode(of_packet(&older, name), known.as_slice()).unwrap();
            assert!(known == message, "{name}, seed {seed}");
        }
    }
}

#[test]
fn newer_and_older_readers_read_this_writers_packets() {
    let (newer, older) = (newer(), older());
    for name in packet_messages() {
        for seed in 0..25 {
            let message = Filler::new(seed, true).message(&of_packet(&pool(), name));
            let written = through_this_build(name, &message.encode_to_vec());
            for (reader, is_newer) in [(&newer, true), (&older, false)] {
                let read = DynamicMessage::decode(of_packet(reader, name), written.as_slice());
                let read = read.unwrap();
                assert!(!is_newer || read.unknown_fields().count() == 0);
                // What it did not understand it can pass on whole.
                let back = through_this_build(name, &read.encode_to_vec());
                let back = DynamicMessage::decode(of_packet(&pool(), name), back.as_slice());
                assert!(back.unwrap() == message, "{name}, seed {seed}");
            }
        }
    }
}
