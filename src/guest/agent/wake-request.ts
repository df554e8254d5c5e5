/** What a guest is told that goes on from memory, and what its answer has to contain to be believed. */
import { AgentError } from './errors.ts';
import { type Fields, type FieldValue, TAG } from './frames.ts';

export interface WakeRequest {
  /** UUID of this load; the same one twice is done once */
  generation: string;
  /** 32 to 512 secret random bytes */
  seed: Buffer;
  /** the host's time in `ns` since 1970, read as late as possible */
  wallClockNs: bigint;
  /**
   * `same`: the machine that was saved, and no other goes on from it · `new`: another machine · `again`: the machine that was
   * saved, whose memory was loaded before
   */
  mode: 'same' | 'new' | 'again';
  /** required for `new` */
  identity?: WakeIdentity | undefined;
}

export interface WakeIdentity {
  hostname: string;
  address: string;
  gateway: string;
  /** bytes */
  mtu: number;
  /** `06:00:ac:1e:00:07` */
  mac: string;
  /** 32 hexadecimal digits */
  machineId: string;
  /** UUID */
  bootId: string;
  /** text of `/etc/resolv.conf` */
  resolver: string;
  /** SSH host key: OpenSSH's private form, and the line of its public half */
  hostKey: { private: string; public: string };
  /** public keys that may log in as root beside those that already may */
  authorizedKeys: readonly string[];
  /** further files by absolute path */
  files?: Readonly<Record<string, { content: string; mode: number }>> | undefined;
}

export interface WakeReport {
  generation: string;
  /** what was done, e.g. `seed`, `clock`, `network`, with a number where there is one */
  did: ReadonlyMap<string, number | undefined>;
}

/** What an answer must name, in each mode; without it the guest does not go on. */
const REQUIRED = {
  same: ['seed', 'clock'],
  again: ['seed', 'clock', 'connections', 'ssh-sessions', 'random-seeds'],
  new: [
    ...['seed', 'clock', 'connections', 'ssh-sessions', 'network', 'hostname', 'files'],
    ...['machine-id', 'boot-id', 'random-seeds', 'ssh-servers'],
  ],
} as const;

const MAX_DEEDS = 64;

export function wakeFields({ generation, seed, wallClockNs, mode, identity }: WakeRequest): [number, FieldValue][] {
  const clock = Buffer.alloc(8);
  clock.writeBigInt64LE(wallClockNs);
  return [
    [TAG.generation, generation],
    [TAG.seed, seed],
    [TAG.wallClock, clock],
    [TAG.mode, mode],
    ...(identity ? identityFields(identity) : []),
  ];
}

function identityFields(identity: WakeIdentity): [number, FieldValue][] {
  const key = '/etc/ssh/ssh_host_ed25519_key';
  const files = {
    '/etc/resolv.conf': { content: identity.resolver, mode: 0o644 },
    [key]: { content: identity.hostKey.private, mode: 0o600 },
    [`${key}.pub`]: { content: identity.hostKey.public, mode: 0o644 },
    ...identity.files,
  };
  return [
    [TAG.hostname, identity.hostname],
    [TAG.address, identity.address],
    [TAG.gateway, identity.gateway],
    [TAG.mtu, identity.mtu],
    [TAG.mac, Buffer.from(identity.mac.replaceAll(':', ''), 'hex')],
    [TAG.machineId, identity.machineId],
    [TAG.bootId, identity.bootId],
    ...identity.authorizedKeys.map((line): [number, FieldValue] => [TAG.authorizedKey, line]),
    ...Object.entries(files).map(([path, { content, mode }]): [number, FieldValue] => [
      TAG.file,
      `${path}\0${mode.toString(8)}\0${content}`,
    ]),
  ];
}

/** @throws AgentError `broken` when the answer is for another generation or leaves something out */
export function wakeReportOf(
  { generation, mode }: Pick<WakeRequest, 'generation' | 'mode'>,
  fields: Fields,
): WakeReport {
  if (fields.text(TAG.generation) !== generation) {
    throw new AgentError('broken', 'its agent answers to another wake than this one');
  }
  const did = new Map(
    fields.texts(TAG.did, MAX_DEEDS).map((text): [string, number | undefined] => {
      const [what = '', count] = text.split('=', 2);
      return [what, count === undefined ? undefined : Number(count)];
    }),
  );
  const missing = REQUIRED[mode].filter((what) => !did.has(what));
  if (missing.length > 0) {
    throw new AgentError('broken', `its agent left out of the wake: ${missing.join(', ')}`);
  }
  return { generation, did };
}
