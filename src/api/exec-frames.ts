/**
 * Frames on an upgraded exec connection: one type byte, a 32-bit big-endian length, the payload.
 * The client speaks stdin, resize and signal; the daemon stdout, stderr, exit, error, notice and credit.
 *
 * The daemon answers the first stdin frame with credit for `INPUT_WINDOW_BYTES`, and then grants what the command has taken. A
 * client that sends no more than that is always read, so that signals and its end are seen although nobody takes its input.
 */
export const FRAME = {
  stdin: 0,
  /** empty payload: no more input */
  stdinEnd: 1,
  /** JSON `{columns, rows}` */
  resize: 2,
  /** signal name without `SIG`, e.g. `INT` */
  signal: 3,
  stdout: 16,
  stderr: 17,
  /** JSON `{code, signal}`: the end of a command that ran */
  exit: 18,
  /** JSON Problem: the command never ran or its connection broke */
  error: 19,
  /** text for the person who waits: what the command waits for */
  notice: 20,
  /** 32-bit big-endian number: so many more bytes of stdin may be sent */
  credit: 21,
} as const;

/** Input that is on its way to a command. */
export const INPUT_WINDOW_BYTES = 256 * 1024;

export type FrameType = (typeof FRAME)[keyof typeof FRAME];

export interface Frame {
  type: number;
  payload: Buffer;
}

const HEADER_BYTES = 5;
/** Larger than any chunk either side sends; a longer frame is a broken or hostile peer. */
const MAX_PAYLOAD_BYTES = 1024 * 1024;

export function encodeFrame(type: FrameType, payload: Buffer | string = Buffer.alloc(0)): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const frame = Buffer.allocUnsafe(HEADER_BYTES + body.length);
  frame.writeUInt8(type, 0);
  frame.writeUInt32BE(body.length, 1);
  body.copy(frame, HEADER_BYTES);
  return frame;
}

export function encodeCredit(bytes: number): Buffer {
  const payload = Buffer.allocUnsafe(4);
  payload.writeUInt32BE(bytes);
  return encodeFrame(FRAME.credit, payload);
}

/** @throws RangeError when the payload is none of credit */
export function decodeCredit(payload: Buffer): number {
  return payload.readUInt32BE(0);
}

/**
 * A decoder to feed with chunks as they come; returns the frames that each chunk completes.
 * The returned function throws a RangeError for a frame longer than 1 MiB.
 */
export function createFrameDecoder(): (chunk: Buffer) => Frame[] {
  let pending: Buffer = Buffer.alloc(0);
  return (chunk) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    const frames: Frame[] = [];
    while (pending.length >= HEADER_BYTES) {
      const length = pending.readUInt32BE(1);
      if (length > MAX_PAYLOAD_BYTES) throw new RangeError(`exec frame of ${length} bytes`);
      if (pending.length < HEADER_BYTES + length) break;
      frames.push({ type: pending.readUInt8(0), payload: pending.subarray(HEADER_BYTES, HEADER_BYTES + length) });
      pending = pending.subarray(HEADER_BYTES + length);
    }
    return frames;
  };
}
