/** SSH connections to guests through the `ssh2` library; the only file that knows it. */
import { createConnection, type Socket } from 'node:net';
import type { Algorithms, Client, ClientChannel } from 'ssh2';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { MIB } from '../units.ts';

/** User banger logs in as, and the port it logs in on. */
export const GUEST_USER = 'root';
export const GUEST_SSH_PORT = 22;

export interface SshTarget {
  /** VM name, for messages */
  name: string;
  address: string;
  port: number;
  user: string;
  /** OpenSSH private key */
  privateKey: string;
  /** the guest's host key in its binary form; any other key is refused */
  hostKey: Buffer;
}

export interface SshConnection extends AsyncDisposable {
  /** Opens a channel that runs `command` through the user's shell in the guest. */
  exec(command: string, options?: SshExecOptions): Promise<ClientChannel>;
  readonly closed: boolean;
  /** Called once when the connection ends, however it ends. */
  onClose(listener: () => void): void;
}

export interface SshExecOptions {
  /** asks for a terminal of this size */
  pty?: { columns: number; rows: number; term: string };
}

export interface CommandExit {
  code: number | null;
  /** e.g. `SIGKILL` */
  signal: string | undefined;
}

const exits = new WeakMap<ClientChannel, CommandExit>();

/** How a channel's command ended, when that was told already: for one that ends at once, before anybody can listen. */
export function exitOf(channel: ClientChannel): CommandExit | undefined {
  return exits.get(channel);
}

const breaches = new WeakMap<ClientChannel, string>();

/** What the guest did that its connection was closed for; undefined for any other end. */
export function breachOf(channel: ClientChannel): string | undefined {
  return breaches.get(channel);
}

/**
 * What a guest may make this process keep. ssh2 grants 2 MiB for each channel and does not hold a guest to it; some of what
 * was granted may be granted again while one of two outputs is read. Requests of the guest are answered whether it reads or not.
 */
const MAX_UNREAD_BYTES = 8 * MIB;
const MAX_UNSENT_BYTES = 32 * MIB;

/** A login takes a few kilobytes, and the lines that a server may say before its name are for people. */
const MAX_LOGIN_BYTES = MIB;

/** Why a login did not come about: the guest is not there yet, or it is and says no. */
export class SshLoginError extends Error {
  /** whether trying again can help */
  readonly temporary: boolean;

  /** whether the guest said anything at all */
  readonly answered: boolean;

  constructor(message: string, temporary: boolean, cause?: unknown, answered = true) {
    super(message, { cause });
    this.name = 'SshLoginError';
    this.temporary = temporary;
    this.answered = answered;
  }
}

/**
 * Cheapest first: an emulated guest needs 0.8 s for a handshake with these and 1.2 s with OpenSSH's defaults.
 * The rest is kept for images whose sshd offers other things.
 */
const ALGORITHMS: Algorithms = {
  serverHostKey: ['ssh-ed25519'],
  kex: [
    'curve25519-sha256',
    'curve25519-sha256@libssh.org',
    'ecdh-sha2-nistp256',
    'ecdh-sha2-nistp384',
    'diffie-hellman-group14-sha256',
  ],
  cipher: [
    'chacha20-poly1305@openssh.com',
    'aes128-gcm@openssh.com',
    'aes256-gcm@openssh.com',
    'aes128-ctr',
    'aes256-ctr',
  ],
};

/**
 * A guest that went away without a word, or whose sshd is stuck, is noticed by a probe that is not answered until the next is
 * due. Each takes a millisecond here and more of an emulated guest, for as long as the VM runs, so they are few.
 */
const KEEPALIVE_MS = 45_000;

/**
 * Connects and logs in within `timeoutMs`.
 * @throws SshLoginError
 */
export async function connectSsh(target: SshTarget, timeoutMs: number, signal?: AbortSignal): Promise<SshConnection> {
  const socket = await dial(target, Math.min(timeoutMs, DIAL_TIMEOUT_MS), signal);
  try {
    return await login(target, socket, timeoutMs, signal);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** Short, because the kernel repeats a lost SYN only after a second and a new attempt costs nothing. */
const DIAL_TIMEOUT_MS = 400;

function dial(target: SshTarget, timeoutMs: number, signal: AbortSignal | undefined): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = createConnection({ host: target.address, port: target.port, noDelay: true });
  const fail = (message: string, cause?: unknown) => {
    socket.destroy();
    reject(new SshLoginError(message, true, cause, answeredBy(cause)));
  };
  const onAbort = () => fail('cancelled');
  signal?.addEventListener('abort', onAbort, { once: true });
  socket.setTimeout(timeoutMs, () => fail(`its port ${target.port} does not answer`));
  socket.once('error', (error) => fail(dialFailure(error, target.port), error));
  socket.once('connect', () => {
    signal?.removeEventListener('abort', onAbort);
    socket.removeAllListeners();
    // until the SSH client listens, and after it has stopped: an error without a listener ends this process
    socket.on('error', () => {});
    socket.setTimeout(0);
    resolve(socket);
  });
  if (signal?.aborted) onAbort();
  return promise;
}

/** A connection that is refused or reset was refused by somebody. */
function answeredBy(cause: unknown): boolean {
  return ['ECONNREFUSED', 'ECONNRESET'].includes(systemCode(cause) ?? '');
}

function dialFailure(error: Error, port: number): string {
  switch (systemCode(error)) {
    case 'ECONNREFUSED':
      return `nothing listens on its port ${port}`;
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return 'its address cannot be reached';
    default:
      return messageOf(error);
  }
}

async function login(
  target: SshTarget,
  socket: Socket,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<SshConnection> {
  const { default: ssh2 } = await import('ssh2');
  const client = new ssh2.Client();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let wrongKey = false;
  const onAbort = () => client.destroy();
  signal?.addEventListener('abort', onAbort, { once: true });
  client.once('ready', resolve);
  client.on('error', (error: Error & { level?: string }) => {
    // a guest that says no to our key will say it again; anything else may be a guest that still boots
    const denied = wrongKey || error.level === 'client-authentication';
    reject(
      new SshLoginError(
        wrongKey ? 'the guest shows another host key than the one it was given' : error.message,
        !denied,
        error,
        error.level !== 'client-timeout',
      ),
    );
  });
  client.once('close', () => reject(new SshLoginError('the guest closed the connection', true)));
  client.connect({
    sock: socket,
    username: target.user,
    privateKey: target.privateKey,
    readyTimeout: timeoutMs,
    keepaliveInterval: KEEPALIVE_MS,
    keepaliveCountMax: 1,
    algorithms: ALGORITHMS,
    hostVerifier: (key: Buffer) => {
      wrongKey = !key.equals(target.hostKey);
      return !wrongKey;
    },
  });
  const listen = () => {
    if (socket.bytesRead <= MAX_LOGIN_BYTES) return;
    reject(new SshLoginError('it sends more than a login takes', true));
    client.destroy();
  };
  socket.on('data', listen);
  try {
    await promise;
  } catch (error) {
    client.destroy();
    throw error;
  } finally {
    socket.off('data', listen);
    signal?.removeEventListener('abort', onAbort);
  }
  return wrap(client, target, socket);
}

/** What a guest gets to begin a command; an emulated one under load needs some seconds. */
const OPEN_LIMIT_MS = 60_000;

/** What a guest gets to close its end of a connection. */
const FAREWELL_MS = 2000;

function wrap(client: Client, target: SshTarget, socket: Socket): SshConnection {
  let closed = false;
  client.once('close', () => {
    closed = true;
  });
  client.on('error', () => {}); // 'close' follows and is what owners listen to
  const channels = new Set<ClientChannel>();
  // whatever grows here grows by what the guest sends
  socket.on('data', () => {
    const breach = breachBy(channels, socket);
    if (breach === undefined) return;
    for (const channel of channels) breaches.set(channel, breach);
    client.destroy();
  });
  return {
    get closed() {
      return closed;
    },
    onClose: (listener) => void client.once('close', listener),
    exec(command, options = {}) {
      const pty = options.pty && { cols: options.pty.columns, rows: options.pty.rows, term: options.pty.term };
      return new Promise((resolve, reject) => {
        const refuse = (error: unknown) =>
          reject(
            new BangerError('guest_failed', `${target.name} did not run the command: ${messageOf(error)}`, {
              cause: error,
              hint: `See what the guest says: banger logs ${target.name}`,
            }),
          );
        let late = false;
        const timer = setTimeout(() => {
          late = true;
          refuse(new Error(`it did not begin it within ${OPEN_LIMIT_MS / 1000} s`));
        }, OPEN_LIMIT_MS);
        try {
          client.exec(command, pty ? { pty } : {}, (error, channel) => {
            clearTimeout(timer);
            if (error) return refuse(error);
            channels.add(channel);
            channel.once('close', () => channels.delete(channel));
            channel.on('error', () => {}); // 'close' follows, also where nobody else listens
            if (late) return channel.close();
            channel.once('exit', (code: number | null, signal?: string) => exits.set(channel, { code, signal }));
            resolve(channel);
          });
        } catch (error) {
          clearTimeout(timer);
          refuse(error);
        }
      });
    },
    async [Symbol.asyncDispose]() {
      client.end();
      if (closed) return;
      // end() waits for the guest, and one that is gone must not hold us; ssh2's own destroy() does nothing after it
      const timer = setTimeout(() => socket.destroy(), FAREWELL_MS);
      await new Promise<void>((resolve) => client.once('close', () => resolve()));
      clearTimeout(timer);
    },
  };
}

function breachBy(channels: ReadonlySet<ClientChannel>, socket: Socket): string | undefined {
  for (const channel of channels) {
    if (channel.readableLength + channel.stderr.readableLength > MAX_UNREAD_BYTES)
      return 'sent more than it was granted';
  }
  return socket.writableLength > MAX_UNSENT_BYTES ? 'asked on and on and read no answers' : undefined;
}
