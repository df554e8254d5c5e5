/** An agent in this process, behind a Unix socket that connects as a VMM's does: for code that needs no guest. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { AGENT_PROTOCOL } from '../../src/guest/agent/agent.ts';
import { encodeAgentFrame, encodeFields, type FieldValue, TAG, TYPE } from '../../src/guest/agent/frames.ts';

/** A request as the agent sees it. */
export interface AgentRequest {
  type: number;
  channel: number;
  /** fields by tag, in order; empty for a payload that is none */
  fields: { tag: number; bytes: Buffer }[];
  payload: Buffer;
  text(tag: number): string | undefined;
}

export type Answer = readonly (readonly [tag: number, value: FieldValue])[] | { refused: string } | 'silence';

export interface FakeAgentOptions {
  version?: string;
  protocol?: number;
  features?: readonly string[];
  /** said in the greeting */
  frozenBy?: string;
  /** answers a request in place of the usual answer; undefined for that one */
  answer?: (request: AgentRequest) => Answer | undefined | Promise<Answer | undefined>;
}

export interface FakeAgent extends AsyncDisposable {
  /** all it was asked, oldest first */
  requests: AgentRequest[];
  /** Breaks every connection, as a load of memory does. */
  reset(): void;
  /** Says something out of turn on all connections. */
  say(bytes: Buffer): void;
}

const FEATURES = ['ready', 'quiesce', 'wake-same', 'wake-new', 'exec', 'terminal'];

/** What a wake is answered with that did everything. */
const DEEDS = [
  ...['seed', 'clock=0', 'connections=0', 'ssh-sessions=0', 'network', 'hostname', 'files=3', 'machine-id', 'boot-id'],
  ...['random-seeds=1', 'ssh-servers=1'],
];

/** Listens at `socketPath`. Commands end with 0 at once. */
export async function startFakeAgent(socketPath: string, options: FakeAgentOptions = {}): Promise<FakeAgent> {
  const requests: AgentRequest[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => sockets.delete(socket));
    let connected = false;
    let pending: Buffer = Buffer.alloc(0);
    socket.on('data', async (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      if (!connected) {
        const end = pending.indexOf(0x0a);
        if (end < 0) return;
        connected = true;
        pending = pending.subarray(end + 1);
        socket.write('OK 1073741824\n');
        socket.write(encodeAgentFrame(TYPE.hello, 0, greeting(options)));
      }
      for (;;) {
        if (pending.length < 12 || pending.length < 12 + pending.readUInt32LE(8)) return;
        const size = 12 + pending.readUInt32LE(8);
        const request = requestOf(pending.subarray(0, size));
        pending = pending.subarray(size);
        requests.push(request);
        const answer = (await options.answer?.(request)) ?? usual(request);
        if (answer === 'silence') continue;
        send(socket, request, answer);
      }
    });
  }).listen(socketPath);
  await once(server, 'listening');
  return {
    requests,
    reset() {
      for (const socket of sockets) socket.destroy();
    },
    say(bytes) {
      for (const socket of sockets) socket.write(bytes);
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** One that ends with the test. */
export async function fakeAgent(t: TestContext, socketPath: string, options?: FakeAgentOptions): Promise<FakeAgent> {
  const agent = await startFakeAgent(socketPath, options);
  t.after(() => agent[Symbol.asyncDispose]());
  return agent;
}

function greeting({ version = '1.2.3', protocol = AGENT_PROTOCOL, features = FEATURES, frozenBy }: FakeAgentOptions) {
  return encodeFields([
    [TAG.protocol, protocol],
    [TAG.version, version],
    ...features.map((feature): [number, string] => [TAG.feature, feature]),
    ...(frozenBy === undefined ? [] : [[TAG.token, frozenBy] as [number, string]]),
  ]);
}

function requestOf(frame: Buffer): AgentRequest {
  const payload = frame.subarray(12);
  const fields: AgentRequest['fields'] = [];
  for (let at = 0; at + 8 <= payload.length; ) {
    const end = at + 8 + payload.readUInt32LE(at + 4);
    fields.push({ tag: payload.readUInt32LE(at), bytes: payload.subarray(at + 8, end) });
    at = end;
  }
  const text = (tag: number) => fields.find((field) => field.tag === tag)?.bytes.toString('utf8');
  return { type: frame.readUInt32LE(0), channel: frame.readUInt32LE(4), fields, payload, text };
}

function usual(request: AgentRequest): Answer {
  switch (request.type) {
    case TYPE.ready:
      return [
        [TAG.state, 'ready'],
        [TAG.uptimeMs, 9000],
      ];
    case TYPE.quiesce:
      return [
        [TAG.state, 'frozen'],
        [TAG.count, 40],
        [TAG.missed, 0],
      ];
    case TYPE.wake:
      return [
        [TAG.generation, request.text(TAG.generation) ?? ''],
        ...DEEDS.map((deed): [number, string] => [TAG.did, deed]),
      ];
    case TYPE.exec:
      return [[TAG.pid, 4242]];
    case TYPE.ping:
    case TYPE.thaw:
      return [];
    default:
      return 'silence';
  }
}

function send(socket: Socket, { type, channel }: AgentRequest, answer: Exclude<Answer, 'silence'>): void {
  if ('refused' in answer) {
    socket.write(encodeAgentFrame(TYPE.failed, channel, encodeFields([[TAG.text, answer.refused]])));
    return;
  }
  socket.write(encodeAgentFrame(TYPE.done, channel, encodeFields(answer)));
  if (type !== TYPE.exec) return;
  socket.write(encodeAgentFrame(TYPE.exit, channel, encodeFields([[TAG.code, 0]])));
  socket.write(encodeAgentFrame(TYPE.end, channel));
}
