"""librdkafka's mock cluster, and a reader that is no part of the sensor.

    cluster N               starts N brokers, prints their addresses as a JSON list; then makes each topic that a line names
    read ADDRESSES TOPIC    prints every record from the beginning as a line of JSON, until it is killed
"""

import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition


def cluster(brokers):
    producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": int(brokers)})
    members = producer.list_topics(timeout=60).brokers.values()
    print(json.dumps([f"{member.host}:{member.port}" for member in members]), flush=True)
    for line in sys.stdin:
        # The mock makes what a producer asks for.
        producer.list_topics(line.strip(), timeout=60)
        print("made", flush=True)


def read(addresses, topic):
    consumer = Consumer(
        {"bootstrap.servers": addresses, "group.id": "reader", "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    while True:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr, flush=True)
            continue
        record = {
            "partition": message.partition(),
            "offset": message.offset(),
            "key": message.key().decode(),
            "headers": {name: value.decode() for name, value in message.headers()},
            "value": json.loads(message.value()),
        }
        print(json.dumps(record), flush=True)


{"cluster": cluster, "read": read}[sys.argv[1]](*sys.argv[2:])
