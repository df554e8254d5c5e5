/** The second part of an image's initrd: the newest `/init` and agent, and an SSH server that needs nothing of the image. */
import { BangerError } from '../../errors.ts';
import { type CpioEntry, writeCpio } from './cpio.ts';
import { INIT_SCRIPT } from './init-script.ts';
import { PRIVATE, SSHD_FILES } from './process-boot.ts';

/** Reads a file of a root file system, links followed; undefined when there is none. */
export type ReadGuestFile = (path: string) => Promise<Buffer | undefined>;

export interface SshServer {
  server: Buffer;
  sftpServer: Buffer;
  /** what loads them, and their libraries by name */
  loader: Buffer;
  libraries: Map<string, Buffer>;
}

const SERVER = '/usr/sbin/sshd';
const SFTP_SERVERS = ['/usr/lib/openssh/sftp-server', '/usr/libexec/openssh/sftp-server', '/usr/lib/ssh/sftp-server'];
const LIBRARY_PLACES = [
  ...['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib', '/lib64', '/lib'],
];
/** More than OpenSSH of any distribution has. */
const MAX_LIBRARIES = 64;

/**
 * An SSH server with everything it is loaded with, out of a root file system that has one.
 * @returns undefined when something of it is missing
 */
export async function collectSshServer(read: ReadGuestFile): Promise<SshServer | undefined> {
  const server = await read(SERVER);
  const sftpServer = await firstOf(read, SFTP_SERVERS);
  if (!server || !sftpServer) return undefined;
  const interpreter = readElf(server).interpreter;
  const loader = interpreter === undefined ? undefined : await read(interpreter);
  if (!loader || interpreter === undefined) return undefined;
  const libraries = new Map<string, Buffer>();
  const wanted = [...readElf(server).needed, ...readElf(sftpServer).needed];
  for (let name = wanted.pop(); name !== undefined; name = wanted.pop()) {
    if (libraries.has(name) || interpreter.endsWith(`/${name}`)) continue;
    if (libraries.size === MAX_LIBRARIES || !/^[\w.+-]{1,100}$/.test(name)) return undefined;
    const library = await firstOf(
      read,
      LIBRARY_PLACES.map((place) => `${place}/${name}`),
    );
    if (!library) return undefined;
    libraries.set(name, library);
    wanted.push(...readElf(library).needed);
  }
  return { server, sftpServer, loader, libraries };
}

/** A cpio archive to be put behind an initrd: what it has counts before what the first part has. */
export function toolsArchive(agent: Buffer, ssh: SshServer | undefined): Buffer {
  const entries: CpioEntry[] = [
    { type: 'directory', path: 'bin' },
    { type: 'file', path: 'bin/banger-agent', data: agent, mode: 0o755 },
    { type: 'file', path: 'init', data: Buffer.from(INIT_SCRIPT), mode: 0o755 },
    { type: 'directory', path: PRIVATE },
  ];
  if (!ssh) return writeCpio(entries);
  const at = `${PRIVATE}/ssh`;
  for (const path of [at, `${at}/lib`, `${at}/etc`, `${at}/etc/ssh`]) entries.push({ type: 'directory', path });
  const programs = { sshd: ssh.loader, server: ssh.server, 'sftp-server': ssh.sftpServer };
  for (const [name, data] of Object.entries(programs)) {
    entries.push({ type: 'file', path: `${at}/${name}`, data, mode: 0o755 });
  }
  for (const [name, data] of ssh.libraries)
    entries.push({ type: 'file', path: `${at}/lib/${name}`, data, mode: 0o644 });
  for (const [name, { text, mode }] of Object.entries(SSHD_FILES)) {
    entries.push({ type: 'file', path: `${at}/${name}`, data: Buffer.from(text), mode });
  }
  return writeCpio(entries);
}

async function firstOf(read: ReadGuestFile, paths: readonly string[]): Promise<Buffer | undefined> {
  for (const path of paths) {
    const found = await read(path);
    if (found) return found;
  }
  return undefined;
}

interface ElfFacts {
  interpreter: string | undefined;
  /** names of the libraries it is loaded with */
  needed: string[];
}

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

/**
 * Of a little-endian 64-bit program or library (System V ABI, chapter 5).
 * @throws BangerError `corrupt` for anything else
 */
export function readElf(file: Buffer): ElfFacts {
  if (file.length < 64 || file.toString('latin1', 0, 6) !== '\x7fELF\x02\x01') {
    throw new BangerError('corrupt', 'A program of the bundle is none for this machine.');
  }
  const at = Number(file.readBigUInt64LE(32));
  const [bytes, count] = [file.readUInt16LE(54), file.readUInt16LE(56)];
  const headers = Array.from({ length: count }, (_, index) =>
    file.subarray(at + index * bytes, at + (index + 1) * bytes),
  )
    .filter((header) => header.length >= 56)
    .map((header) => ({
      type: header.readUInt32LE(0),
      offset: Number(header.readBigUInt64LE(8)),
      address: Number(header.readBigUInt64LE(16)),
      size: Number(header.readBigUInt64LE(32)),
    }));
  const textAt = (offset: number) => {
    const end = file.indexOf(0, offset);
    return file.toString('latin1', offset, end < 0 ? offset : end);
  };
  const interp = headers.find(({ type }) => type === PT_INTERP);
  const dynamic = headers.find(({ type }) => type === PT_DYNAMIC);
  const needed: number[] = [];
  let strings = 0;
  for (let index = 0; dynamic && (index + 1) * 16 <= dynamic.size; index++) {
    const entry = dynamic.offset + index * 16;
    if (entry + 16 > file.length) break;
    const [tag, value] = [file.readBigInt64LE(entry), Number(file.readBigUInt64LE(entry + 8))];
    if (tag === 0n) break;
    if (tag === DT_NEEDED) needed.push(value);
    if (tag === DT_STRTAB) strings = value;
  }
  const segment = headers.find(
    ({ type, address, size }) => type === PT_LOAD && strings >= address && strings < address + size,
  );
  const base = segment ? strings - segment.address + segment.offset : 0;
  return {
    interpreter: interp && textAt(interp.offset),
    needed: segment ? needed.map((offset) => textAt(base + offset)) : [],
  };
}
