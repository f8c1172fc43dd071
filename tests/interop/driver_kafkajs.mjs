// kafkajs: JavaScript, and a protocol of its own. What a driver answers is said in answering.py.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const [folder, address] = process.argv.slice(2)
const require = createRequire(folder + '/')
const { AssignerProtocol, CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require('kafkajs')
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')

const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy }
const LIMIT_MS = 20_000
const kafka = new Kafka({ brokers: [address], logLevel: logLevel.NOTHING, retry: { retries: 4, initialRetryTime: 50 } })

class HasNone extends Error {}

let member = null
let connected = null

async function admin() {
  if (connected === null) {
    connected = kafka.admin()
    await connected.connect()
  }
  return connected
}

// Reads with a group of its own, which commits nothing: this client cannot read without one.
async function readFrom(topic, partition, offset, count) {
  const consumer = kafka.consumer({ groupId: `reads-${process.pid}-${performance.now()}`, heartbeatInterval: 200, maxWaitTimeInMs: 200 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic] })
  const records = []
  let limit
  try {
    await new Promise((resolve, reject) => {
      limit = setTimeout(() => reject(new Error(`${records.length} of ${count} records came`)), LIMIT_MS)
      consumer
        .run({
          autoCommit: false,
          eachMessage: async ({ partition: from, message }) => {
            if (from === partition && Number(message.offset) >= offset && records.length < count) {
              records.push([Number(message.offset), message.value.toString(), Number(message.timestamp)])
            }
            if (records.length === count) resolve()
          },
        })
        .catch(reject)
      consumer.seek({ topic, partition, offset: String(offset) })
    })
  } finally {
    clearTimeout(limit)
    await consumer.disconnect()
  }
  return records
}

const calls = {
  async produce({ topic, records, codec, acks, idempotent }) {
    if (!(codec in CODECS)) throw new HasNone(`it has no ${codec} of its own, and no package in plain JavaScript`)
    const producer = kafka.producer({ idempotent })
    await producer.connect()
    try {
      const messages = records.map(([partition, value, time]) => ({ partition, value, timestamp: time && String(time) }))
      await producer.send({ topic, messages, acks: { all: -1, 1: 1, 0: 0 }[acks], compression: CODECS[codec] })
    } finally {
      await producer.disconnect()
    }
  },

  read: ({ topic, partition, offset, count }) => readFrom(topic, partition, offset, count),

  async read_since({ topic, partition, time_ms, count }) {
    const found = await (await admin()).fetchTopicOffsetsByTimestamp(topic, time_ms)
    return readFrom(topic, partition, Number(found.find((each) => each.partition === partition).offset), count)
  },

  async join({ group, topic, instance, session_ms, cooperative }) {
    if (instance !== null) throw new HasNone('it has no group.instance.id')
    if (cooperative) throw new HasNone('its members give up all partitions when one comes or goes')
    const consumer = kafka.consumer({ groupId: group, sessionTimeout: session_ms, heartbeatInterval: 200, maxWaitTimeInMs: 200 })
    const joined = { consumer, topic, assigned: [], assignments: 0, records: [] }
    consumer.on(consumer.events.CRASH, ({ payload }) => console.error(payload.error, payload.restart))
    consumer.on(consumer.events.REBALANCING, () => (joined.assigned = []))
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      joined.assigned = payload.memberAssignment[topic] ?? []
      joined.assignments += 1
    })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        joined.records.push([partition, Number(message.offset), message.value.toString()])
      },
    })
    member = joined
  },

  async state() {
    const { assigned, assignments, records } = member
    return { assigned: [...assigned].sort(), assignments, records }
  },

  async commit() {
    const next = new Map(member.records.map(([partition, offset]) => [partition, offset + 1]))
    const offsets = [...next].map(([partition, offset]) => ({ topic: member.topic, partition, offset: String(offset) }))
    await member.consumer.commitOffsets(offsets)
  },

  async leave() {
    await member?.consumer.disconnect()
    member = null
  },

  async create_topic({ topic, partitions, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const made = await (await admin()).createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] })
    // It tells by `false` that there is one.
    if (!made) throw Object.assign(new Error('the topic exists'), { code: 36 })
  },

  async delete_topic({ topic }) {
    await (await admin()).deleteTopics({ topics: [topic] })
  },

  topics: async () => (await admin()).listTopics(),

  async partitions({ topic }) {
    const { topics } = await (await admin()).fetchTopicMetadata({ topics: [topic] })
    return topics[0].partitions.length
  },

  async add_partitions({ topic, total }) {
    await (await admin()).createPartitions({ topicPartitions: [{ topic, count: total }] })
  },

  async config({ topic }) {
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
    const { resources } = await (await admin()).describeConfigs({ resources: [resource], includeSynonyms: false })
    return Object.fromEntries(resources[0].configEntries.map(({ configName, configValue }) => [configName, configValue]))
  },

  async alter_config({ topic, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic, configEntries }
    await (await admin()).alterConfigs({ validateOnly: false, resources: [resource] })
  },

  async ends({ topic, partition }) {
    const found = (await (await admin()).fetchTopicOffsets(topic)).find((each) => each.partition === partition)
    return [Number(found.low), Number(found.high)]
  },

  groups: async () => (await (await admin()).listGroups()).groups.map(({ groupId }) => groupId),

  async group({ group }) {
    const { groups } = await (await admin()).describeGroups([group])
    const { state, members } = groups[0]
    const assignments = members.map((each) => AssignerProtocol.MemberAssignment.decode(each.memberAssignment))
    const assigned = assignments.flatMap((each) => Object.values(each?.assignment ?? {}).flat())
    return { state: state.toLowerCase(), members: members.length, assigned: assigned.sort() }
  },

  async committed({ group, topic }) {
    const [found] = await (await admin()).fetchOffsets({ groupId: group, topics: [topic] })
    const done = found.partitions.filter(({ offset }) => offset !== '-1')
    return Object.fromEntries(done.map(({ partition, offset }) => [partition, Number(offset)]))
  },

  async set_committed({ group, topic, offsets }) {
    const partitions = Object.entries(offsets).map(([number, offset]) => ({ partition: Number(number), offset: String(offset) }))
    await (await admin()).setOffsets({ groupId: group, topic, partitions })
  },

  async delete_group({ group }) {
    await (await admin()).deleteGroups([group])
  },
}

// An error of Kafka's may lie below some of the client's own.
function codeOf(error) {
  for (const each of [error, error.cause, ...(error.errors ?? []), ...(error.groups ?? []).map((group) => group.error)]) {
    const code = each?.code ?? (each && each !== error ? codeOf(each) : null)
    if (Number.isInteger(code)) return code
  }
  return null
}

function told(error) {
  if (error instanceof HasNone) return { none: error.message }
  const code = codeOf(error)
  return code === null ? { failed: error.stack } : { refused: code, text: error.message }
}

process.on('unhandledRejection', (error) => console.error(error))
for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...given } = JSON.parse(line)
  const answer = await calls[call](given).then((ok) => ({ ok: ok ?? null }), told)
  process.stdout.write(JSON.stringify(answer) + '\n')
}
process.exit(0)
