/** The agent of a guest, as the host uses it: what happens inside one running process there instead of over SSH. */
import { throwIfCancelled } from '../../system/abort.ts';
import { timerMs } from '../../units.ts';
import { AgentError } from './errors.ts';
import { AgentChannel } from './exec-channel.ts';
import {
  type AgentFrame,
  decodeFields,
  encodeFields,
  type Fields,
  type FieldValue,
  TAG,
  TYPE,
  uint32,
} from './frames.ts';
import { AgentLink, dialAgent, type LinkOptions } from './link.ts';
import { type WakeReport, type WakeRequest, wakeFields, wakeReportOf } from './wake-request.ts';

/** The protocol this host speaks; an agent of another one is as good as none. */
export const AGENT_PROTOCOL = 1;

/** What an agent says of itself first. */
export interface AgentHello {
  protocol: number;
  /** of banger, whose bundle it came with */
  version: string;
  /** `ready`, `quiesce`, `wake-same`, `wake-new`, `exec`, `terminal` */
  features: ReadonlySet<string>;
  /** token of the request by which the guest is frozen at present */
  frozenBy: string | undefined;
  /** of the last wake */
  generation: string | undefined;
}

export interface Quiesced {
  /** `synced`: the guest has no control groups to freeze, so that its programs run on */
  state: 'frozen' | 'synced';
  /** processes that stand still */
  frozen: number;
  /** processes that do not: they wait for a disk, or do what cannot be interrupted */
  notFrozen: number;
  /** names of some of those */
  names: string[];
}

export interface AgentReady {
  /** `ms` the guest's kernel had run */
  uptimeMs: number;
  failedUnits: string[];
}

/** What of a script's arguments comes before its command. */
export interface PlainCommand {
  /** whether the first is a directory that is entered */
  enters: boolean;
  /** how many assignments `env` is given */
  assignments: number;
}

export interface AgentCommand {
  argv: readonly string[];
  /** POSIX shell, run by the login shell with `argv` as its arguments; without it `argv` is run itself */
  script?: string | undefined;
  /** how to run the command of the script without a shell, where that would only become it */
  plain?: PlainCommand | undefined;
  env?: Readonly<Record<string, string>> | undefined;
  cwd?: string | undefined;
  /** root without */
  user?: string | undefined;
  terminal?: { rows: number; columns: number; term: string } | undefined;
}

interface Limits {
  /** limit in `ms` */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface GuestAgent extends AsyncDisposable {
  readonly hello: AgentHello;
  readonly closed: boolean;
  /** how long ago it answered a request, in `ms` */
  readonly quietMs: number;
  /** Called once when the connection ends, however it ends. */
  onClose(listener: () => void): void;
  /** @throws AgentError */
  ping(limits?: Limits): Promise<void>;
  /**
   * Resolves when the guest has reached its default target, without a limit in time; with undefined when its init does not say
   * when that is.
   * @throws AgentError
   */
  ready(signal?: AbortSignal): Promise<AgentReady | undefined>;
  /**
   * Writes what is to be written, and freezes what runs. Without a word of the host for 30 s of its time the guest goes on by
   * itself.
   * @param token of this request, which `thaw` has to name
   * @throws AgentError
   */
  quiesce(token: string, limits?: Limits): Promise<Quiesced>;
  /** One that is not frozen is left as it is. @throws AgentError `refused` when another token froze it */
  thaw(token?: string, limits?: Limits): Promise<void>;
  /**
   * Makes a guest that goes on from memory one of its own, and lets it go on. The same generation twice is done once.
   * @throws AgentError: then the guest must not go on
   */
  wake(request: WakeRequest, limits?: Limits): Promise<WakeReport>;
  /** @throws AgentError `gone`; whatever else goes wrong is said by the channel */
  exec(command: AgentCommand): AgentChannel;
}

/** What an answer may take whose work takes milliseconds. */
const ANSWER_LIMIT_MS = 10_000;

/** A disk under load takes long to write what is in memory. */
const QUIESCE_LIMIT_MS = 20_000;
/** What is left of it for freezing and for the answer to arrive. */
const QUIESCE_RESERVE_MS = 3000;

/** Units a guest may name, and what such names are made of. */
const MAX_FAILED_UNITS = 20;
const UNIT_NAME = /^[\w@.:\\-]+$/;

const MAX_FEATURES = 64;
const MAX_NAMES = 8;

/**
 * Connects to the agent of a guest.
 * @param socketPath of its VMM's vsock device
 * @throws AgentError `absent` when there is no such socket or nobody listens in the guest, `silent`, `broken`
 */
export async function connectAgent(socketPath: string, options: LinkOptions): Promise<GuestAgent> {
  throwIfCancelled(options.signal);
  const began = performance.now();
  const { socket, early } = await dialAgent(socketPath, options);
  const link = new AgentLink(socket);
  const left = Math.max(1, options.timeoutMs - (performance.now() - began));
  const greeting = awaitAnswer(link, { timeoutMs: left, signal: options.signal }, (owner) => {
    link.expectGreeting(owner);
    return 0;
  });
  link.begin(early);
  try {
    return createAgent(link, helloOf(await greeting));
  } catch (error) {
    link.close();
    throw error;
  }
}

function helloOf({ type, payload }: AgentFrame): AgentHello {
  const fields = type === TYPE.hello ? tryDecode(payload) : undefined;
  const protocol = fields?.number(TAG.protocol);
  const version = fields?.text(TAG.version, 64);
  if (!fields || protocol === undefined || version === undefined) {
    throw new AgentError('broken', 'its agent does not say what it is');
  }
  if (protocol !== AGENT_PROTOCOL) {
    throw new AgentError(
      'broken',
      `its agent (${version}) speaks protocol ${protocol}, and this banger ${AGENT_PROTOCOL}`,
    );
  }
  return {
    protocol,
    version,
    features: new Set(fields.texts(TAG.feature, MAX_FEATURES)),
    frozenBy: fields.text(TAG.token),
    generation: fields.text(TAG.generation),
  };
}

function createAgent(link: AgentLink, hello: AgentHello): GuestAgent {
  let answeredAt = Number.NEGATIVE_INFINITY;
  const ask = async (type: number, payload: Buffer, limits: Limits = {}): Promise<Buffer> => {
    const answer = await awaitAnswer(link, limits, (owner) => link.open(type, payload, owner));
    answeredAt = performance.now();
    if (answer.type === TYPE.done) return answer.payload;
    const reason = answer.type === TYPE.failed ? tryDecode(answer.payload)?.text(TAG.text, 1024) : undefined;
    throw new AgentError('refused', reason ?? 'its agent refuses without a reason');
  };
  return {
    hello,
    get closed() {
      return link.closed;
    },
    get quietMs() {
      return performance.now() - answeredAt;
    },
    onClose: (listener) => link.onClose(listener),
    async ping(limits) {
      await ask(TYPE.ping, Buffer.from('ping'), { timeoutMs: ANSWER_LIMIT_MS, ...limits });
    },
    async ready(signal) {
      const fields = decode(await ask(TYPE.ready, Buffer.alloc(0), { signal }));
      if (fields.text(TAG.state) !== 'ready') return undefined;
      const failedUnits = fields.texts(TAG.name, MAX_FAILED_UNITS).filter((name) => UNIT_NAME.test(name));
      return { uptimeMs: fields.number(TAG.uptimeMs) ?? 0, failedUnits };
    },
    async quiesce(token, { timeoutMs = QUIESCE_LIMIT_MS, signal } = {}) {
      const limitMs = Math.max(1000, timeoutMs - QUIESCE_RESERVE_MS);
      const payload = encodeFields([
        [TAG.token, token],
        [TAG.limitMs, limitMs],
      ]);
      const fields = decode(await ask(TYPE.quiesce, payload, { timeoutMs, signal }));
      return {
        state: fields.text(TAG.state) === 'frozen' ? 'frozen' : 'synced',
        frozen: fields.number(TAG.count) ?? 0,
        notFrozen: fields.number(TAG.missed) ?? 0,
        names: fields.texts(TAG.name, MAX_NAMES, 64),
      };
    },
    async thaw(token, limits) {
      const payload = encodeFields(token === undefined ? [] : [[TAG.token, token]]);
      await ask(TYPE.thaw, payload, { timeoutMs: ANSWER_LIMIT_MS, ...limits });
    },
    async wake(request, limits) {
      const payload = encodeFields(wakeFields(request));
      return wakeReportOf(request, decode(await ask(TYPE.wake, payload, { timeoutMs: ANSWER_LIMIT_MS, ...limits })));
    },
    exec(command) {
      const channel = new AgentChannel(link);
      channel.begin(encodeFields(commandFields(command)));
      return channel;
    },
    async [Symbol.asyncDispose]() {
      link.close();
    },
  };
}

function commandFields({ argv, script, plain, env = {}, cwd, user, terminal }: AgentCommand): [number, FieldValue][] {
  return [
    ...argv.map((word): [number, FieldValue] => [TAG.argument, word]),
    ...Object.entries(env).map(([name, value]): [number, FieldValue] => [TAG.environment, `${name}=${value}`]),
    ...(script === undefined ? [] : [[TAG.script, script] as [number, FieldValue]]),
    ...(plain === undefined
      ? []
      : [[TAG.plain, uint32(plain.enters ? 1 : 0, plain.assignments)] as [number, FieldValue]]),
    ...(cwd === undefined ? [] : [[TAG.directory, cwd] as [number, FieldValue]]),
    ...(user === undefined ? [] : [[TAG.user, user] as [number, FieldValue]]),
    ...(terminal === undefined
      ? []
      : ([
          [TAG.terminal, uint32(terminal.rows, terminal.columns)],
          [TAG.term, terminal.term],
        ] as [number, FieldValue][])),
  ];
}

/** The one frame that answers a request. */
function awaitAnswer(
  link: AgentLink,
  { timeoutMs, signal }: Limits,
  open: (owner: { receive(frame: AgentFrame): 'over'; lost(error: AgentError): void }) => number,
): Promise<AgentFrame> {
  const { promise, resolve, reject } = Promise.withResolvers<AgentFrame>();
  let channel: number | undefined;
  const giveUp = (error: unknown) => {
    if (channel !== undefined) link.forget(channel);
    reject(error);
  };
  const onAbort = () => giveUp(new AgentError('gone', 'cancelled', signal?.reason));
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(
          () => giveUp(new AgentError('silent', `its agent did not answer within ${Math.round(timeoutMs) / 1000} s`)),
          timerMs(timeoutMs),
        );
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    channel = open({
      receive(frame) {
        resolve(frame);
        return 'over';
      },
      lost: reject,
    });
    if (signal?.aborted) onAbort();
  } catch (error) {
    reject(error);
  }
  return promise.finally(() => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  });
}

function decode(payload: Buffer): Fields {
  const fields = tryDecode(payload);
  if (!fields) throw new AgentError('broken', 'its agent gave an answer that is none');
  return fields;
}

function tryDecode(payload: Buffer): Fields | undefined {
  try {
    return decodeFields(payload);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
