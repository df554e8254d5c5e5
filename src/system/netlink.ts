/**
 * What the kernel tells everybody about its network, read by asking whether something came: no program that waits for
 * it, so nothing that could stay behind. Node has no such sockets; the C library has (see
 * docs/decisions/0047). Where that is missing nothing is heard, and callers look for themselves.
 */
import { closeSync } from 'node:fs';
import { type Functions, loadLibc } from './libc.ts';

/** Families of linux/netlink.h. */
export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;

export interface NetlinkSubscription extends Disposable {
  /**
   * Takes what came since the last call, without waiting.
   * @param seen is given each datagram; its bytes are overwritten by the next one
   * @returns false when more came than the kernel keeps, so that some of it is lost
   */
  drain(seen: (datagram: Buffer) => void): boolean;
}

/** Of socket.h, the same on every machine banger runs on. */
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2_000_000;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const SOCKADDR_BYTES = 12;

/** The kernel makes no larger ones of its own accord. */
const DATAGRAM_BYTES = 64 * 1024;

/** Datagrams read in one go: who sends faster than they are read must not hold this process. */
const DRAIN_LIMIT = 4096;

const SIGNATURES = {
  socket: { arguments: ['int32', 'int32', 'int32'], return: 'int32' },
  bind: { arguments: ['int32', 'buffer', 'uint32'], return: 'int32' },
  recv: { arguments: ['int32', 'buffer', 'uint64', 'int32'], return: 'int64' },
  send: { arguments: ['int32', 'buffer', 'uint64', 'int32'], return: 'int64' },
  getsockopt: { arguments: ['int32', 'int32', 'int32', 'buffer', 'buffer'], return: 'int32' },
} as const;

type Calls = Functions<typeof SIGNATURES>;

let calls: Promise<Calls | undefined> | undefined;

/**
 * Subscribes to groups of messages.
 * @param groups bits of the groups, bit 0 for group 1
 * @returns undefined where that cannot be had: without the right to (netfilter's are root's alone), or without ffi
 */
export async function subscribeNetlink(family: number, groups: number): Promise<NetlinkSubscription | undefined> {
  calls ??= loadLibc(SIGNATURES);
  const c = await calls;
  if (!c) return undefined;
  const fd = c.socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, family);
  if (fd < 0) return undefined;
  const address = Buffer.alloc(SOCKADDR_BYTES);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(groups >>> 0, 8);
  if (c.bind(fd, address, SOCKADDR_BYTES) !== 0) {
    closeSync(fd);
    return undefined;
  }
  return subscription(c, fd);
}

/** One answer to a question. */
export interface NetlinkMessage {
  type: number;
  /** what follows the header */
  body: Buffer;
}

const HEADER_BYTES = 16;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

/** Answers taken of one question: a host with more connections than that is asked too much anyway. */
const ANSWER_LIMIT = 1_000_000;

/**
 * Asks for a list; the kernel answers while it is read, so nothing is waited for.
 * @param request a whole message with its header
 * @returns undefined where it is refused, or the C library cannot be called
 */
export async function askNetlink(family: number, request: Buffer): Promise<NetlinkMessage[] | undefined> {
  calls ??= loadLibc(SIGNATURES);
  const c = await calls;
  if (!c) return undefined;
  const fd = c.socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, family);
  if (fd < 0) return undefined;
  try {
    if (Number(c.send(fd, request, BigInt(request.length), 0)) !== request.length) return undefined;
    const datagram = Buffer.allocUnsafeSlow(DATAGRAM_BYTES);
    const messages: NetlinkMessage[] = [];
    while (messages.length < ANSWER_LIMIT) {
      const bytes = Number(c.recv(fd, datagram, BigInt(DATAGRAM_BYTES), 0));
      if (bytes <= 0) return undefined; // cut off: half of a list is none
      for (let at = 0; at + HEADER_BYTES <= bytes; ) {
        const length = datagram.readUInt32LE(at);
        const type = datagram.readUInt16LE(at + 4);
        if (type === NLMSG_DONE) return messages;
        if (type === NLMSG_ERROR || length < HEADER_BYTES || at + length > bytes) return undefined;
        messages.push({ type, body: Buffer.from(datagram.subarray(at + HEADER_BYTES, at + length)) });
        at += (length + 3) & ~3;
      }
    }
    return undefined;
  } finally {
    closeSync(fd);
  }
}

function subscription(c: Calls, fd: number): NetlinkSubscription {
  const datagram = Buffer.allocUnsafeSlow(DATAGRAM_BYTES);
  const error = Buffer.alloc(4);
  const errorBytes = Buffer.alloc(4);
  const next = () => Number(c.recv(fd, datagram, BigInt(DATAGRAM_BYTES), 0));
  let open = true;
  return {
    drain(seen) {
      if (!open) return false;
      errorBytes.writeUInt32LE(error.length);
      let complete = c.getsockopt(fd, SOL_SOCKET, SO_ERROR, error, errorBytes) === 0 && error.readInt32LE() === 0;
      for (let read = 0; read < DRAIN_LIMIT; read++) {
        let bytes = next();
        if (bytes <= 0) {
          // nothing there, or told once that something was lost: then what was kept comes after it
          bytes = next();
          if (bytes <= 0) return complete;
          complete = false;
        }
        seen(datagram.subarray(0, bytes));
      }
      return false;
    },
    [Symbol.dispose]() {
      if (open) closeSync(fd);
      open = false;
    },
  };
}
