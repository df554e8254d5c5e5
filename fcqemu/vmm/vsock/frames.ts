/**
 * The wire between fcqemu and an agent in the guest, over one virtio-serial port named `fcqemu.vsock`: frames
 * of a 16-byte header (operation, stream, argument, payload length; little endian) and a payload.
 */

export const OP = {
  /**
   * agent to host: ready; forget all streams, and with the argument 1: tell the ports the host listens on.
   * host to agent: the argument is the guest's context id
   */
  hello: 1,
  /** opens a stream; the argument is the port. Streams opened by the host have even numbers */
  connect: 2,
  /** the stream is open */
  accept: 3,
  /** refuses a stream, or ends it at once in both directions */
  reset: 4,
  data: 5,
  /** the sender will send no more data; the other direction goes on */
  finish: 6,
  /** the argument is how many more bytes the receiver of this frame may send */
  credit: 7,
  /** host to agent: the machine was restored and all streams are gone; the agent answers with a hello */
  restored: 8,
  /** host to agent: the argument is a port the host listens on from now on */
  listen: 9,
  /** host to agent: the argument is a port the host listens on no longer */
  unlisten: 10,
} as const;

export interface Frame {
  op: number;
  stream: number;
  argument: number;
  payload: Buffer;
}

const HEADER_BYTES = 16;

/** Largest payload of one frame; more is a protocol error. */
export const MAX_PAYLOAD_BYTES = 64 * 1024;

export function encodeFrame(op: number, stream: number, argument = 0, payload: Buffer = Buffer.alloc(0)): Buffer {
  const frame = Buffer.alloc(HEADER_BYTES + payload.length);
  frame.writeUInt32LE(op, 0);
  frame.writeUInt32LE(stream, 4);
  frame.writeUInt32LE(argument, 8);
  frame.writeUInt32LE(payload.length, 12);
  payload.copy(frame, HEADER_BYTES);
  return frame;
}

/** Cuts a byte stream into frames; what is incomplete waits in the pieces that it came in. */
export class FrameDecoder {
  #pieces: Buffer[] = [];
  #length = 0;
  /** bytes without which there is nothing to be done */
  #wanted = HEADER_BYTES;

  /** @throws RangeError when a frame is longer than allowed; nothing after it can be trusted */
  *push(bytes: Buffer): Generator<Frame> {
    this.#pieces.push(bytes);
    this.#length += bytes.length;
    while (this.#length >= this.#wanted) {
      const rest = this.#pieces.length === 1 ? (this.#pieces[0] ?? bytes) : Buffer.concat(this.#pieces);
      const length = rest.readUInt32LE(12);
      if (length > MAX_PAYLOAD_BYTES) throw new RangeError(`a frame of ${length} bytes`);
      const end = HEADER_BYTES + length;
      const isWhole = rest.length >= end;
      this.#pieces = [isWhole ? rest.subarray(end) : rest];
      this.#length = this.#pieces[0]?.length ?? 0;
      this.#wanted = isWhole ? HEADER_BYTES : end;
      if (!isWhole) return;
      yield {
        op: rest.readUInt32LE(0),
        stream: rest.readUInt32LE(4),
        argument: rest.readUInt32LE(8),
        payload: Buffer.from(rest.subarray(HEADER_BYTES, end)),
      };
    }
  }
}
