/**
 * Ethernet frames over a stream socket, in the form of QEMU's `filter-redirector`: size of the packet, size of the
 * virtio-net header it begins with (both 32 bits, big endian), and the packet.
 */
import { createConnection, type Socket } from 'node:net';

const PREFIX_BYTES = 8;

/** More than any packet QEMU sends; beyond it the stream cannot be understood any more. */
const MAX_PACKET_BYTES = 80 * 1024;

/** Bytes QEMU may lag behind before packets are lost, as in the queue of a network card. */
const BACKLOG_BYTES = 4 * 1024 * 1024;

/** Bytes read at once; room for the largest packet. */
const READ_BYTES = 128 * 1024;

export interface Packet {
  /** with the prefix, ready to be sent on; the memory is used again once the packet was looked at */
  bytes: Buffer;
  /** bytes of the virtio-net header; 0 when there is none */
  headerBytes: number;
}

/** What counts against a limit: the packet with its virtio-net header. */
export function sizeOf({ bytes }: Packet): number {
  return bytes.length - PREFIX_BYTES;
}

/** The Ethernet frame of a packet. */
export function frameOf({ bytes, headerBytes }: Packet): Buffer {
  return bytes.subarray(PREFIX_BYTES + headerBytes);
}

/** A packet around a frame that needs nothing of its device: no checksum, no segmentation. */
export function packetOf(frame: Buffer, headerBytes: number): Packet {
  const bytes = Buffer.alloc(PREFIX_BYTES + headerBytes + frame.length);
  bytes.writeUInt32BE(headerBytes + frame.length, 0);
  bytes.writeUInt32BE(headerBytes, 4);
  frame.copy(bytes, PREFIX_BYTES + headerBytes);
  return { bytes, headerBytes };
}

/**
 * Cuts a stream into packets. Received bytes are written into `room()`; a packet that is not complete stays where
 * it is until the rest has come.
 */
export class PacketDecoder {
  #buffer: Buffer = Buffer.allocUnsafe(READ_BYTES);
  /** bytes at the beginning of the buffer that belong to the next packet */
  #pending = 0;

  /** Where the next bytes have to be put. */
  room(): Buffer {
    return this.#buffer.subarray(this.#pending);
  }

  /**
   * @param received bytes that were put into `room()`
   * @param onPacket called for each whole packet; returns whether its memory is still needed afterwards
   * @throws RangeError when a packet is longer than allowed
   */
  take(received: number, onPacket: (packet: Packet) => boolean): void {
    const end = this.#pending + received;
    const bytes = this.#buffer;
    let isKept = false;
    let at = 0;
    while (end - at >= PREFIX_BYTES) {
      const size = bytes.readUInt32BE(at);
      if (size > MAX_PACKET_BYTES) throw new RangeError(`a packet of ${size} bytes`);
      const next = at + PREFIX_BYTES + size;
      if (next > end) break;
      const packet = { bytes: bytes.subarray(at, next), headerBytes: Math.min(size, bytes.readUInt32BE(at + 4)) };
      isKept = onPacket(packet) || isKept;
      at = next;
    }
    // memory that is still needed is left to those who need it
    if (isKept) this.#buffer = Buffer.allocUnsafe(READ_BYTES);
    bytes.copy(this.#buffer, 0, at, end);
    this.#pending = end - at;
  }
}

/** One of QEMU's character devices that packets come from or go to. */
export class FramePort {
  readonly #socket: Socket;
  readonly #decoder = new PacketDecoder();

  /** @param onPacket called for each packet that comes; returns whether its memory is still needed afterwards */
  constructor(path: string, onPacket: (packet: Packet) => boolean = () => false) {
    this.#socket = createConnection({
      path,
      onread: {
        // one piece of memory for everything, where a stream of its own would leave 64 KiB of garbage per read
        buffer: () => this.#decoder.room(),
        callback: (received) => {
          this.#decoder.take(received, onPacket);
          return true;
        },
      },
    });
  }

  /** Resolves when connected. @throws the system error of connect(2) */
  async connected(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#socket.once('connect', () => resolve());
    this.#socket.on('error', reject);
    await promise;
  }

  /**
   * Sends without waiting: QEMU must not be kept from reading by somebody who waits for it. What it does not
   * take in time is lost.
   * @returns whether the memory of the packet is still needed
   */
  send({ bytes }: Packet): boolean {
    if (this.#socket.destroyed || this.#socket.writableLength > BACKLOG_BYTES) return false;
    this.#socket.write(bytes);
    return this.#socket.writableLength > 0;
  }
}
