/**
 * Connections that pass this host, as its connection tracking knows them: asked over netlink, as conntrack(8) does. Linux,
 * include/uapi/linux/netfilter/nfnetlink_conntrack.h.
 */
import { askNetlink, NETLINK_NETFILTER } from '../system/netlink.ts';

export interface Flow {
  /** of the packet that began it */
  source: string;
  target: string;
  /** of IP: 6 for TCP, 17 for UDP */
  protocol: number;
  targetPort: number;
  /** of TCP: closed or waiting for late packets */
  ended: boolean;
}

const AF_INET = 2;
/** Subsystem 1, message 1: IPCTNL_MSG_CT_GET; replies are message 0. */
const GET = 0x0101;
const NEW = 0x0100;
const NLM_F_REQUEST_DUMP = 0x301;
const HEADER_BYTES = 20;

const TUPLE_ORIG = 1;
const TUPLE_IP = 1;
const TUPLE_PROTO = 2;
const IP_V4_SRC = 1;
const IP_V4_DST = 2;
const PROTO_NUM = 1;
const PROTO_DST_PORT = 3;
const PROTOINFO = 4;
const PROTOINFO_TCP = 1;
const TCP_STATE = 1;
/** TIME_WAIT and CLOSE of nf_conntrack_tcp.h. */
const TCP_ENDED = new Set([7, 8]);

/** @returns undefined where this user may not ask, or nothing is tracked */
export async function listFlows(): Promise<Flow[] | undefined> {
  const request = Buffer.alloc(HEADER_BYTES);
  request.writeUInt32LE(HEADER_BYTES, 0);
  request.writeUInt16LE(GET, 4);
  request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
  request.writeUInt8(AF_INET, 16);
  const messages = await askNetlink(NETLINK_NETFILTER, request);
  return messages?.flatMap(({ type, body }) => {
    const flow = type === NEW ? parseFlow(body) : undefined;
    return flow ? [flow] : [];
  });
}

/** @param body what follows the header of a message; undefined for what is no flow of IPv4 */
export function parseFlow(body: Buffer): Flow | undefined {
  const all = attributesOf(body.subarray(4));
  const tuple = attributesOf(all.get(TUPLE_ORIG));
  const ip = attributesOf(tuple.get(TUPLE_IP));
  const proto = attributesOf(tuple.get(TUPLE_PROTO));
  const [source, target] = [ip.get(IP_V4_SRC), ip.get(IP_V4_DST)];
  const protocol = proto.get(PROTO_NUM);
  if (source?.length !== 4 || target?.length !== 4 || !protocol || protocol.length < 1) return undefined;
  const port = proto.get(PROTO_DST_PORT);
  const state = attributesOf(attributesOf(all.get(PROTOINFO)).get(PROTOINFO_TCP)).get(TCP_STATE);
  return {
    source: source.join('.'),
    target: target.join('.'),
    protocol: protocol.readUInt8(0),
    targetPort: port && port.length >= 2 ? port.readUInt16BE(0) : 0,
    ended: state !== undefined && state.length > 0 && TCP_ENDED.has(state.readUInt8(0)),
  };
}

/** The low 14 bits of an attribute's type are its number, the others say how it is to be read. */
const TYPE_MASK = 0x3fff;

function attributesOf(bytes: Buffer | undefined): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  for (let at = 0; bytes && at + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < 4 || at + length > bytes.length) break;
    found.set(bytes.readUInt16LE(at + 2) & TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
  return found;
}
