/**
 * The wire between the host and the agent in a guest: frames of a 12-byte header (type, channel, payload length; little
 * endian) and a payload, which for requests and answers is a list of fields (tag, length, bytes). docs/agent.md has the tables.
 */

export const TYPE = {
  ping: 1,
  ready: 2,
  quiesce: 3,
  thaw: 4,
  wake: 5,
  exec: 6,
  stdin: 7,
  stdinEnd: 8,
  credit: 9,
  resize: 10,
  signal: 11,
  close: 12,
  hello: 32,
  done: 33,
  failed: 34,
  stdout: 35,
  stderr: 36,
  exit: 37,
  end: 38,
} as const;

export const TAG = {
  protocol: 1,
  version: 2,
  feature: 3,
  token: 4,
  limitMs: 5,
  text: 6,
  count: 7,
  missed: 8,
  name: 9,
  uptimeMs: 10,
  state: 11,
  generation: 12,
  seed: 13,
  wallClock: 14,
  mode: 15,
  did: 16,
  hostname: 17,
  address: 18,
  gateway: 19,
  mtu: 20,
  mac: 21,
  machineId: 22,
  bootId: 23,
  authorizedKey: 24,
  file: 25,
  argument: 26,
  environment: 27,
  directory: 28,
  user: 29,
  script: 30,
  terminal: 31,
  term: 32,
  pid: 33,
  code: 34,
  signal: 35,
  oldAddress: 36,
  plain: 37,
} as const;

/** Bytes either side may send on a channel before it is given credit. */
export const WINDOW_BYTES = 256 * 1024;

/** What one frame of ours carries of a command's input. */
export const DATA_BYTES = 32 * 1024;

const HEADER_BYTES = 12;
const FIELD_HEADER_BYTES = 8;

/** Of a guest's frame: output comes in pieces of 32 KiB, and no answer is longer. */
const MAX_PAYLOAD_BYTES = 64 * 1024;

/** Fields of one answer; a guest that names more units or files than that is not believed. */
const MAX_FIELDS = 512;

export interface AgentFrame {
  type: number;
  channel: number;
  payload: Buffer;
}

export function encodeAgentFrame(type: number, channel: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  frame.writeUInt32LE(type, 0);
  frame.writeUInt32LE(channel, 4);
  frame.writeUInt32LE(payload.length, 8);
  payload.copy(frame, HEADER_BYTES);
  return frame;
}

/**
 * A decoder to feed with chunks as they come; returns the frames that each chunk completes.
 * The returned function throws a RangeError for a frame longer than 64 KiB.
 */
export function createAgentDecoder(): (chunk: Buffer) => AgentFrame[] {
  let chunks: Buffer[] = [];
  let length = 0;
  let wanted = HEADER_BYTES;
  return (chunk) => {
    chunks.push(chunk);
    length += chunk.length;
    const frames: AgentFrame[] = [];
    if (length < wanted) return frames;
    let rest = chunks.length === 1 ? chunk : Buffer.concat(chunks);
    for (;;) {
      wanted = HEADER_BYTES;
      if (rest.length < HEADER_BYTES) break;
      const size = rest.readUInt32LE(8);
      if (size > MAX_PAYLOAD_BYTES) throw new RangeError(`a frame of ${size} bytes`);
      wanted += size;
      if (rest.length < wanted) break;
      const payload = rest.subarray(HEADER_BYTES, wanted);
      frames.push({ type: rest.readUInt32LE(0), channel: rest.readUInt32LE(4), payload });
      rest = rest.subarray(wanted);
    }
    chunks = rest.length === 0 ? [] : [rest];
    length = rest.length;
    return frames;
  };
}

export type FieldValue = string | number | Buffer;

/** Numbers become 32 bits, texts UTF-8. */
export function encodeFields(fields: readonly (readonly [tag: number, value: FieldValue])[]): Buffer {
  return Buffer.concat(
    fields.flatMap(([tag, value]) => {
      const bytes = typeof value === 'number' ? uint32(value) : Buffer.from(value);
      return [uint32(tag), uint32(bytes.length), bytes];
    }),
  );
}

export function uint32(...numbers: number[]): Buffer {
  const bytes = Buffer.alloc(4 * numbers.length);
  for (const [at, number] of numbers.entries()) bytes.writeUInt32LE(number, 4 * at);
  return bytes;
}

/** Fields of an answer, with each read as what it has to be. */
export interface Fields {
  /** the first of that tag; undefined when it is absent, longer than `maxBytes` or no printable text */
  text(tag: number, maxBytes?: number): string | undefined;
  /** all of that tag that are, at most `max` */
  texts(tag: number, max: number, maxBytes?: number): string[];
  number(tag: number): number | undefined;
}

/** Text of a guest that people may see on a terminal: no control characters, no invalid UTF-8. */
const MAX_TEXT_BYTES = 256;

/** @throws RangeError when the payload is no list of fields */
export function decodeFields(payload: Buffer): Fields {
  const found: { tag: number; bytes: Buffer }[] = [];
  for (let at = 0; at < payload.length; ) {
    if (payload.length - at < FIELD_HEADER_BYTES || found.length === MAX_FIELDS)
      throw new RangeError('not made of fields');
    const end = at + FIELD_HEADER_BYTES + payload.readUInt32LE(at + 4);
    if (end > payload.length) throw new RangeError('a field beyond the end of its frame');
    found.push({ tag: payload.readUInt32LE(at), bytes: payload.subarray(at + FIELD_HEADER_BYTES, end) });
    at = end;
  }
  const of = (tag: number) => found.filter((field) => field.tag === tag).map(({ bytes }) => bytes);
  const texts = (tag: number, max: number, maxBytes = MAX_TEXT_BYTES) =>
    of(tag)
      .flatMap((bytes) => printable(bytes, maxBytes) ?? [])
      .slice(0, max);
  return {
    texts,
    text: (tag, maxBytes) => texts(tag, 1, maxBytes)[0],
    number(tag) {
      const [bytes] = of(tag);
      return bytes?.length === 4 ? bytes.readUInt32LE(0) : undefined;
    },
  };
}

function printable(bytes: Buffer, maxBytes: number): string | undefined {
  if (bytes.length > maxBytes) return undefined;
  const text = bytes.toString('utf8');
  return /^[^\p{C}\p{Zl}\p{Zp}\ufffd]*$/u.test(text) ? text : undefined;
}
