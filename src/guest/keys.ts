/** SSH keys: one for each VM as its host key, made by the host, and one that banger logs in with. */
import { createHash } from 'node:crypto';
import { chmod, mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import { writeFileAtomic } from '../system/files.ts';

export interface SshKeyPair {
  /** OpenSSH private key file */
  privateKey: string;
  /** `ssh-ed25519 AAAA… comment` */
  publicKey: string;
}

/** Binary form of an ed25519 public key (RFC 8709): its name and 32 bytes, each behind its length. */
const ED25519_BLOB_BYTES = 4 + 'ssh-ed25519'.length + 4 + 32;

export async function generateKeyPair(comment: string): Promise<SshKeyPair> {
  const { default: ssh2 } = await import('ssh2');
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync('ed25519', { comment });
    // ssh2 1.17 drops zero bytes at the beginning of a public key, which makes one pair in 256 unusable
    if (keyBlob(pair.public).length === ED25519_BLOB_BYTES) {
      return { privateKey: pair.private, publicKey: pair.public.trim() };
    }
  }
}

/** The key banger logs in with; made on first use, readable by its owner only as OpenSSH demands. */
export async function ensureClientKey(path: string): Promise<SshKeyPair> {
  const privateKey = await readIfThere(path);
  if (privateKey !== undefined) {
    await chmod(path, 0o600);
    const publicKey = (await readIfThere(`${path}.pub`))?.trim() ?? (await writePublicHalf(path, privateKey));
    return { privateKey, publicKey };
  }
  const pair = await generateKeyPair('banger');
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  // the public half first: a private key alone would be taken for a complete pair
  await writeFileAtomic(`${path}.pub`, `${pair.publicKey}\n`);
  await writeFileAtomic(path, pair.privateKey, 0o600);
  return pair;
}

/** The public half can be made again; another key pair would lock us out of the VMs that run. */
async function writePublicHalf(path: string, privateKey: string): Promise<string> {
  const { default: ssh2 } = await import('ssh2');
  const key = ssh2.utils.parseKey(privateKey);
  if (key instanceof Error) {
    throw new BangerError('corrupt', `The login key ${path} is no OpenSSH private key: ${key.message}.`, {
      hint: `Put back a copy of it, or delete it for a new one, which VMs take at their next start: rm ${path}`,
    });
  }
  const publicKey = `${key.type} ${key.getPublicSSH().toString('base64')} ${key.comment}`.trim();
  await writeFileAtomic(`${path}.pub`, `${publicKey}\n`);
  return publicKey;
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Lines for known_hosts: one per VM, under an alias that no real host can have, or several between commas. */
export function knownHosts(vms: readonly { alias: string; hostKeyPublic: string }[]): string {
  return vms.map(({ alias, hostKeyPublic }) => `${alias} ${keyBody(hostKeyPublic)}\n`).join('');
}

/** `SHA256:…` fingerprint as OpenSSH prints it. */
export function fingerprint(publicKey: string): string {
  const digest = createHash('sha256').update(keyBlob(publicKey)).digest('base64');
  return `SHA256:${digest.replace(/={1,2}$/, '')}`;
}

/** Binary form of a public key, as the SSH protocol sends it. */
export function keyBlob(publicKey: string): Buffer {
  return Buffer.from(publicKey.split(' ')[1] ?? '', 'base64');
}

function keyBody(publicKey: string): string {
  return publicKey.split(' ').slice(0, 2).join(' ');
}
