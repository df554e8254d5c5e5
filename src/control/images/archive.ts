/** What lies beside an image in its archive: `image.json`, which says what the image is and the sums of its files. */
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { isVast } from '../../core/json-size.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { ArchiveKind } from '../../system/archive-entries.ts';

export const IMAGE_MANIFEST = 'image.json';

export const IMAGE_ARCHIVE: ArchiveKind = {
  noun: 'image',
  manifest: IMAGE_MANIFEST,
  madeBy: 'banger image export',
  setting: 'paths.store',
};

/** Files of an image in its archive, as they are named in the store too. */
export const IMAGE_MEMBERS = { rootfs: 'rootfs.ext4', kernel: 'vmlinux', initrd: 'initrd.img' } as const;
export const PACKAGES_MEMBER = 'rootfs.packages';
export const OCI_MEMBER = 'oci.json';

/** A recipe is a few KiB, a part of a disk 80 bytes; a description as long as a disk is not read into memory. */
const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;

/** Raised when an older banger could not make sense of what is written. */
const FORMAT_VERSION = 2;

const Hex = z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits');
const FileSum = z.object({ sha256: Hex, size: z.int().nonnegative() });
const DiskSum = z.object({ fsverity: Hex, size: z.int().nonnegative(), parts: z.record(z.string(), Hex).optional() });

/** Unknown fields are passed over: a later banger may add some without raising the version. */
export const ImageManifest = z.object({
  version: z.literal([1, FORMAT_VERSION]),
  name: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label'),
  arch: z.enum(['x86_64', 'aarch64']),
  base: z.string().min(1).max(4096),
  recipe: z.string().nullable(),
  recipeKey: z.string().nullable(),
  createdAt: z.iso.datetime(),
  files: z.object({
    // format 1 has the plain sum of every file
    [IMAGE_MEMBERS.rootfs]: z.union([FileSum, DiskSum], { error: 'must have sha256 or fsverity, and size' }),
    [IMAGE_MEMBERS.kernel]: FileSum,
    [IMAGE_MEMBERS.initrd]: FileSum,
    [PACKAGES_MEMBER]: FileSum.optional(),
    [OCI_MEMBER]: FileSum.optional(),
  }),
});

export type ImageManifest = z.infer<typeof ImageManifest>;

export function formatManifest(manifest: Omit<ImageManifest, 'version'>): string {
  return `${JSON.stringify({ version: FORMAT_VERSION, ...manifest }, null, 2)}\n`;
}

/**
 * Reads the manifest of an unpacked archive.
 * @throws BangerError `corrupt` with every field that is wrong, `conflict` when a newer banger wrote it
 */
export async function readManifest(path: string, archive: string): Promise<ImageManifest> {
  if ((await stat(path)).size > MAX_MANIFEST_BYTES) {
    throw new BangerError('corrupt', `${archive}: its ${IMAGE_MANIFEST} is longer than any.`);
  }
  const text = await readFile(path, 'utf8');
  if (isVast(text))
    throw new BangerError('corrupt', `${archive}: its ${IMAGE_MANIFEST} has more values in it than any.`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BangerError('corrupt', `${archive}: its ${IMAGE_MANIFEST} is no JSON: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const version = z.object({ version: z.number() }).safeParse(value);
  if (version.success && version.data.version > FORMAT_VERSION) {
    throw new BangerError('conflict', `${archive} was written by a newer banger (format ${version.data.version}).`, {
      hint: `This banger reads formats up to ${FORMAT_VERSION}: install a newer one.`,
    });
  }
  const parsed = ImageManifest.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path: field, message }) => `field "${field.join('.') || '(all)'}": ${message}`,
  );
  throw new BangerError('corrupt', `${archive} was not imported. ${IMAGE_MANIFEST}: ${problems.join('; ')}.`, {
    hint: 'Get it again from where it was made.',
  });
}
