/** What lies beside the disks of an exported snapshot: `snapshot.json`, which says what the VM was and the sums of its disks. */
import { lstat, readFile } from 'node:fs/promises';
import { z } from 'zod';
import { VmProcess } from '../../api/vm-process.ts';
import { isVast } from '../../core/json-size.ts';
import { workMountProblem } from '../../core/work-mount.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { ArchiveKind } from '../../system/archive-entries.ts';

export const SNAPSHOT_MANIFEST = 'snapshot.json';
export const SNAPSHOT_MEMBERS = { root: 'root.ext4', work: 'work.ext4' } as const;

export const SNAPSHOT_ARCHIVE: ArchiveKind = {
  noun: 'snapshot',
  manifest: SNAPSHOT_MANIFEST,
  madeBy: 'banger snapshot export',
  setting: 'paths.store',
};

/** Sums of the parts of two disks as large as any, and no more. */
const MAX_MANIFEST_BYTES = 8 * 1024 * 1024;

/** Raised when an older banger could not make sense of what is written. */
const FORMAT_VERSION = 1;

const Hex = z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits');
const DiskSum = z.object({ fsverity: Hex, size: z.int().positive(), parts: z.record(z.string(), Hex).optional() });

/** Unknown fields are passed over: a later banger may add some without raising the version. */
const SnapshotManifest = z.object({
  version: z.literal(FORMAT_VERSION),
  /** of the snapshot */
  name: z.string().max(63),
  arch: z.enum(['x86_64', 'aarch64']),
  createdAt: z.iso.datetime(),
  vm: z.object({
    name: z.string().max(63),
    image: z.string().min(1).max(4096),
    vcpus: z.int().min(1).max(32),
    memoryMib: z.int().min(64),
    workDiskBytes: z.int().nonnegative(),
    workDiskMount: z.string().refine((path) => workMountProblem(path) === undefined, 'must be a place for a work disk'),
    // what an earlier banger does not say
    nat: z.boolean().optional(),
    process: VmProcess.strip().nullish(),
  }),
  files: z.object({ [SNAPSHOT_MEMBERS.root]: DiskSum, [SNAPSHOT_MEMBERS.work]: DiskSum.optional() }),
});

export type SnapshotManifest = z.infer<typeof SnapshotManifest>;

export function formatManifest(manifest: Omit<SnapshotManifest, 'version'>): string {
  return `${JSON.stringify({ version: FORMAT_VERSION, ...manifest }, null, 2)}\n`;
}

/**
 * Reads the manifest of an unpacked archive.
 * @throws BangerError `corrupt` with every field that is wrong, `conflict` when a newer banger wrote it
 */
export async function readManifest(path: string, archive: string): Promise<SnapshotManifest> {
  const found = await lstat(path);
  if (!found.isFile() || found.size > MAX_MANIFEST_BYTES) {
    throw new BangerError('corrupt', `${archive}: its ${SNAPSHOT_MANIFEST} is no file, or longer than any.`);
  }
  const text = await readFile(path, 'utf8');
  if (isVast(text))
    throw new BangerError('corrupt', `${archive}: its ${SNAPSHOT_MANIFEST} has more values in it than any.`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BangerError('corrupt', `${archive}: its ${SNAPSHOT_MANIFEST} is no JSON: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const version = z.object({ version: z.number() }).safeParse(value);
  if (version.success && version.data.version > FORMAT_VERSION) {
    throw new BangerError('conflict', `${archive} was written by a newer banger (format ${version.data.version}).`, {
      hint: `This banger reads formats up to ${FORMAT_VERSION}: install a newer one.`,
    });
  }
  const parsed = SnapshotManifest.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path: field, message }) => `field "${field.join('.') || '(all)'}": ${message}`,
  );
  throw new BangerError('corrupt', `${archive} was not imported. ${SNAPSHOT_MANIFEST}: ${problems.join('; ')}.`, {
    hint: 'Get it again from where it was made.',
  });
}
