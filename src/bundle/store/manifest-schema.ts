/** The zod schema of bundle.json; imported only where one is read or written, since zod takes time to load. */
import { z } from 'zod';

/** The version of bundle.json this banger writes. */
export const SCHEMA_VERSION = 2;

/** Versions it reads; 1 knows no digests of parts. */
export const READ_VERSIONS = [1, SCHEMA_VERSION] as const;

const ARCHITECTURES = ['x86_64', 'aarch64'] as const;

const FilePath = z
  .string()
  .min(1)
  .max(1024)
  .refine((path) => !(path in Object.prototype), 'is a name that every object has')
  .describe('path relative to the bundle, without `..`');
const Sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits');
const Bytes = z.int().min(0);
const Size = z.string().regex(/^\d+(\.\d+)?([KMGT](i?B)?)?$/, 'expected a size such as 2GiB');

/** DNS labels joined by dots or dashes: the name is a directory and a word on the command line. */
export const BundleName = z
  .string()
  .max(63)
  .regex(/^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/, 'expected lower-case letters, digits, dots and dashes');

const Defaults = z
  .strictObject({
    vcpus: z.int().min(1).max(32).describe('virtual CPUs of a VM that names no number'),
    memoryMib: z.int().min(64).describe('memory in MiB of a VM that names none'),
    bootArgs: z.string().max(1536).describe('kernel command line, before what banger adds'),
    rootDiskSize: Size.describe("smallest size of a VM's root disk"),
    workDiskSize: Size.describe("size of a VM's work disk"),
  })
  .describe('what a VM gets unless configuration or flags say otherwise');

const FileSum = z.union(
  [
    z.strictObject({ sha256: Sha256, size: Bytes.describe('bytes') }),
    z.strictObject({
      fsverity: Sha256.describe('fs-verity digest: SHA-256, blocks of 4096 bytes, no salt'),
      size: Bytes.describe('bytes'),
      parts: z
        .record(z.string().regex(/^\d{1,16}$/, 'expected an offset in bytes'), Sha256)
        .optional()
        .describe(
          'fs-verity digest of each part of 64 MiB as a file of its own, by its offset; none for parts of zeros',
        ),
    }),
  ],
  { error: 'expected a size, and a checksum as sha256 or fsverity' },
);

const TreeSum = z.strictObject({
  sha256: Sha256.describe('digest over the sorted entries of the tree'),
  size: Bytes.describe('bytes of all files'),
  entries: z.int().min(0).describe('files, directories and links'),
});

export const BundleManifest = z
  .strictObject({
    $schema: z.string().optional(),
    schema: z.literal(READ_VERSIONS).describe('version of this format'),
    name: BundleName,
    arch: z.enum(ARCHITECTURES),
    created: z.iso.datetime(),
    kernel: FilePath.describe('uncompressed kernel: ELF with a PVH note on x86_64'),
    initrd: FilePath,
    modules: FilePath.optional().describe('module tree of the kernel, made complete by depmod'),
    rootfs: FilePath.describe('ext4 image of the base root file system'),
    packages: FilePath.optional().describe('packages of the root: one `name version arch` a line, sorted'),
    defaults: Defaults,
    helpers: z.array(FilePath).default([]).describe('scripts for people; banger itself runs none of them'),
    files: z.record(FilePath, FileSum).describe('checksum of each file above'),
    trees: z.record(FilePath, TreeSum).default({}).describe('checksum of the module tree'),
    inputs: z
      .strictObject({
        key: Sha256.describe('digest of everything the build depended on'),
        request: Sha256.describe('digest of what was asked for, without the state of the archive'),
      })
      .optional()
      .describe('what `banger bundle build` made it from'),
  })
  .superRefine((manifest, context) => {
    for (const [field, path] of summedFiles(manifest)) {
      if (manifest.files[path] === undefined) lacksSum(context, ['files'], field, path);
    }
    if (manifest.modules !== undefined && manifest.trees[manifest.modules] === undefined) {
      lacksSum(context, ['trees'], 'modules', manifest.modules);
    }
  })
  .describe('A runtime bundle of banger: what a VM boots from.');

interface SummedPaths {
  kernel: string;
  initrd: string;
  rootfs: string;
  packages?: string | undefined;
  helpers: string[];
}

function summedFiles(manifest: SummedPaths): [string, string][] {
  const { kernel, initrd, rootfs, packages, helpers } = manifest;
  return [
    ['kernel', kernel],
    ['initrd', initrd],
    ['rootfs', rootfs],
    ...(packages === undefined ? [] : [['packages', packages] satisfies [string, string]]),
    ...helpers.map((helper, index): [string, string] => [`helpers.${index}`, helper]),
  ];
}

function lacksSum(context: z.core.$RefinementCtx, path: string[], field: string, named: string): void {
  context.addIssue({ code: 'custom', path, message: `no checksum for ${field} (${JSON.stringify(named)})` });
}

/** The published JSON Schema of bundle.json. */
export function bundleJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(BundleManifest, { io: 'input' }), title: 'bundle.json' };
}

/** The problems of a value that is no manifest, one text per field. */
export function manifestProblems(error: z.ZodError): string[] {
  return error.issues.map(
    (issue) => `${issue.path.length > 0 ? `field "${issue.path.join('.')}"` : 'the file'}: ${issue.message}`,
  );
}
