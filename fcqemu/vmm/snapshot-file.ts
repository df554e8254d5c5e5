/**
 * fcqemu's snapshot files: a header that says how to build the same machine again, QEMU's device state, and a
 * checksum. Firecracker cannot read them, nor fcqemu Firecracker's: magic numbers differ on purpose.
 */
import { open, writeFile } from 'node:fs/promises';
import { ioErrorDebug, ioErrorText } from '../fault.ts';
import type { QemuSpec } from '../qemu/arguments.ts';
import type { StoredMachineConfig } from './machine-config.ts';
import type { StoredMmdsConfig } from './mmds/store.ts';
import type { StoredBootSource } from './resources.ts';

/** Version of the format, printed by `--snapshot-version`. */
export const SNAPSHOT_VERSION = '0.2.0';

const MAGIC = Buffer.from('FCQEMU\x00\x01', 'latin1');
const PREFIX_BYTES = MAGIC.length + 4;
const CRC_BYTES = 4;
/** Device state is tens of kilobytes; what is larger by far is another kind of file. */
const MAX_BYTES = 64 * 1024 * 1024;

export interface SnapshotHeader {
  version: string;
  /** device state is only understood by the same QEMU */
  qemuVersion: string;
  /** how the machine was built; paths as its clients gave them */
  spec: Omit<QemuSpec, 'announces'> & Partial<Pick<QemuSpec, 'announces'>>;
  machine: StoredMachineConfig;
  bootSource: StoredBootSource | null;
  mmdsConfig: StoredMmdsConfig | null;
  /** the guest had powered off */
  halted: boolean;
}

/** Why a file is no usable snapshot, in Firecracker's words and in Rust's debug form. */
export class SnapshotFileError extends Error {
  readonly debug: string;

  constructor(message: string, debug: string) {
    super(message);
    this.name = 'SnapshotFileError';
    this.debug = debug;
  }
}

/** What is no snapshot file at all, or only the beginning of one. */
function malformed(): SnapshotFileError {
  return new SnapshotFileError(
    'An error occurred during bitcode serialization: bitcode error',
    'Bitcode(Error("bitcode error"))',
  );
}

/** Writes a snapshot file, replacing what was there. */
export async function writeSnapshotFile(path: string, header: SnapshotHeader, state: Buffer): Promise<void> {
  const headerText = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  MAGIC.copy(prefix);
  prefix.writeUInt32LE(headerText.length, MAGIC.length);
  const content = Buffer.concat([prefix, headerText, state]);
  const trailer = Buffer.alloc(CRC_BYTES);
  trailer.writeUInt32LE(await checksum(content));
  await writeFile(path, Buffer.concat([content, trailer]));
}

/** A snapshot file that was read and checked. */
export interface SnapshotFile {
  header: SnapshotHeader;
  /** device state as QEMU wrote it */
  state: Buffer;
}

/**
 * Reads a snapshot file and checks all of it.
 * @throws SnapshotFileError, or the system error of open(2)
 */
export async function readSnapshotFile(path: string): Promise<SnapshotFile> {
  const [content] = await Promise.all([readWhole(path), loadZlib()]);
  if (content.length < PREFIX_BYTES + CRC_BYTES) {
    const reason = 'File too short to contain CRC';
    if (content.length > 0) throw malformed();
    throw new SnapshotFileError(`IO Error: ${reason}`, `Io(Custom { kind: UnexpectedEof, error: "${reason}" })`);
  }
  const end = content.length - CRC_BYTES;
  const stateAt = PREFIX_BYTES + content.readUInt32LE(MAGIC.length);
  if (!content.subarray(0, MAGIC.length).equals(MAGIC) || stateAt > end) throw malformed();
  if ((await checksum(content.subarray(0, end))) !== content.readUInt32LE(end)) {
    throw new SnapshotFileError('CRC64 validation failed', 'Crc64');
  }
  const header = JSON.parse(content.toString('utf8', PREFIX_BYTES, stateAt)) as SnapshotHeader;
  return { header, state: content.subarray(stateAt, end) };
}

async function readWhole(path: string): Promise<Buffer> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    if (size > MAX_BYTES) {
      throw new SnapshotFileError(
        `Snapshot size exceeds limit of ${MAX_BYTES} bytes`,
        `SizeLimitExceeded(${MAX_BYTES})`,
      );
    }
    return await file.readFile();
  } catch (error) {
    if (error instanceof SnapshotFileError) throw error;
    throw new SnapshotFileError(`IO Error: ${ioErrorText(error)}`, `Io(${ioErrorDebug(error)})`);
  } finally {
    await file.close();
  }
}

/** Most processes never take a snapshot. */
const loadZlib = () => import('node:zlib');

async function checksum(bytes: Buffer): Promise<number> {
  const { crc32 } = await loadZlib();
  return crc32(bytes);
}
