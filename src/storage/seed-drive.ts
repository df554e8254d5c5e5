/**
 * The seed drive: a small read-only block device holding a tar archive with everything personal to one VM.
 * The initrd reads it; see the guest contract in docs/guest-contract.md.
 */
import { packTar, type TarEntry } from 'modern-tar';
import { writeFileAtomic } from '../system/files.ts';

export interface Seed {
  hostname: string;
  address: string;
  gateway: string;
  /** bytes */
  mtu: number;
  /** DNS servers, in order */
  nameservers: readonly string[];
  /** domain in which short VM names are looked up, without a trailing dot */
  searchDomain: string;
  /** lines for the login user's authorized_keys */
  authorizedKeys: readonly string[];
  /** host key in OpenSSH's private format */
  hostKeyPrivate: string;
  /** `ssh-ed25519 AAAA…` */
  hostKeyPublic: string;
  /** directory of the guest where the work disk is mounted */
  workMount: string;
  /** what the initrd reads of the image's process, by name */
  process?: Readonly<Record<string, string>> | undefined;
  /** further files by absolute path, laid over the root */
  files?: Readonly<Record<string, string>>;
  /** the same, for root alone to read */
  privateFiles?: Readonly<Record<string, string>>;
}

/** What an initrd gets that cannot mount the work disk elsewhere: it would look for root's keys there too. */
const OLD_WORK_MOUNT = '/root';

/** Block devices count 512-byte sectors; a few more keep growth of a seed from changing the device's size. */
const SEED_SIZE_STEP = 64 * 1024;

/** Writes the seed drive; the file holds a private key and is readable by its owner only. */
export async function writeSeedDrive(path: string, seed: Seed): Promise<void> {
  const archive = await packTar(seedEntries(seed));
  const size = Math.ceil(archive.length / SEED_SIZE_STEP) * SEED_SIZE_STEP;
  const image = new Uint8Array(size);
  image.set(archive);
  await writeFileAtomic(path, image, 0o600);
}

/** Text of a guest's /etc/resolv.conf. */
export function resolvConf({ searchDomain, nameservers }: Pick<Seed, 'searchDomain' | 'nameservers'>): string {
  const search = searchDomain ? [`search ${searchDomain}`] : [];
  return [...search, ...nameservers.map((server) => `nameserver ${server}`), ''].join('\n');
}

function seedEntries(seed: Seed): TarEntry[] {
  const config = {
    HOSTNAME: seed.hostname,
    ADDRESS: seed.address,
    GATEWAY: seed.gateway,
    MTU: String(seed.mtu),
    WORK_MOUNT: OLD_WORK_MOUNT,
    WORK_DIR: seed.workMount,
  };
  return [
    // sourced by the initrd's shell: every value is quoted, and none can hold a quote
    file(
      'config',
      `${Object.entries(config)
        .map(([key, value]) => `${key}='${value}'`)
        .join('\n')}\n`,
      0o600,
    ),
    file('authorized_keys', `${seed.authorizedKeys.join('\n')}\n`, 0o600),
    ...Object.entries(seed.process ?? {}).map(([name, text]) => file(name, text, 0o600)),
    // named by itself because busybox tar reports an asked-for member that has no entry of its own
    { header: { name: 'rootfs/', mode: 0o755, size: 0, type: 'directory', uid: 0, gid: 0, mtime: new Date(0) } },
    file('rootfs/etc/hostname', `${seed.hostname}\n`, 0o644),
    file('rootfs/etc/resolv.conf', resolvConf(seed), 0o644),
    file('rootfs/etc/ssh/ssh_host_ed25519_key', seed.hostKeyPrivate, 0o600),
    file('rootfs/etc/ssh/ssh_host_ed25519_key.pub', `${seed.hostKeyPublic}\n`, 0o644),
    ...Object.entries(seed.files ?? {}).map(([path, text]) => file(`rootfs${path}`, text, 0o644)),
    ...Object.entries(seed.privateFiles ?? {}).map(([path, text]) => file(`rootfs${path}`, text, 0o600)),
  ];
}

function file(name: string, body: string, mode: number): TarEntry {
  const size = Buffer.byteLength(body);
  return { header: { name, mode, size, type: 'file', uid: 0, gid: 0, mtime: new Date(0) }, body };
}
