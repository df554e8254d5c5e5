/** Runtime bundles: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';

export const Bundle = z.object({
  name: z.string(),
  directory: z.string(),
  arch: z.string(),
  kernelRelease: z.string().nullable(),
  createdAt: z.string().nullable(),
  legacy: z.boolean().describe('true when the directory has no bundle.json'),
  isDefault: z.boolean(),
  problem: z.string().nullable().describe('why it cannot be used, if so'),
  usedBy: z.array(z.string()).describe('names of the VMs made from it'),
});

const BundleBuild = z.strictObject({
  suite: z.string().min(1).optional().describe('Debian suite; default bookworm'),
  name: z.string().min(1).optional().describe('bundle name; default `debian-<suite>`'),
  output: z.string().startsWith('/').optional().describe('directory to write; default the bundle store'),
  rootDiskBytes: z.int().positive().optional().describe('apparent size of rootfs.ext4; default 2 GiB'),
  force: z.boolean().optional().describe('build even when nothing changed'),
});

/** A bundle is named like the bundle store names it, or by where it is. */
const BundleRef = z.string().min(1).describe('name in the bundle store or absolute path; default the default');

export const BundleDetail = Bundle.extend({
  kernel: z.string().describe('absolute path, as all below'),
  initrd: z.string(),
  rootfs: z.string(),
  modules: z.string().nullable(),
  packages: z.string().nullable().describe('list of the packages in the root file system'),
  helpers: z.array(z.string()),
  defaults: z
    .object({
      vcpus: z.int(),
      memoryMib: z.int(),
      bootArgs: z.string(),
      rootDiskBytes: z.number(),
      workDiskBytes: z.number(),
    })
    .describe('what a VM gets unless configuration or request say otherwise'),
  notice: z.string().nullable().describe('what should be known about it, with the command that settles it'),
});

const BundleUse = z.strictObject({ name: z.string().min(1).describe('name in the bundle store') });

const BundleVerify = z.strictObject({ name: BundleRef.optional() });

/** Result of a `bundle.verify` operation, which succeeds whatever the checks say. */
export const BundleVerdict = z.object({
  name: z.string(),
  directory: z.string(),
  ok: z.boolean().describe('whether every check was'),
  checks: z.array(
    z.object({
      field: z.string().describe('field of bundle.json it is about, e.g. `files.vmlinux`'),
      ok: z.boolean(),
      detail: z.string().describe('what was found, as a sentence'),
    }),
  ),
});

export const BundleImport = z.strictObject({
  source: z.string().startsWith('/').describe('`.tar.zst` or `.tar` file, or the directory of a bundle'),
  name: z.string().min(1).optional().describe('name in the bundle store; default the one in bundle.json'),
  force: z.boolean().optional().describe('replace a bundle of that name'),
});

const BundleExport = z.strictObject({
  name: BundleRef.optional(),
  file: z.string().startsWith('/').describe('`.tar.zst` file to write; it must not exist'),
});

/** Result of a `bundle.export` operation. */
export const BundleFile = z.object({
  name: z.string(),
  file: z.string(),
  sizeBytes: z.number(),
});

const BundleAdopt = z.strictObject({ directory: z.string().startsWith('/') });

export type Bundle = z.infer<typeof Bundle>;
export type BundleDetail = z.infer<typeof BundleDetail>;
export type BundleVerdict = z.infer<typeof BundleVerdict>;
export type BundleImport = z.infer<typeof BundleImport>;
export type BundleFile = z.infer<typeof BundleFile>;

export const bundleRoutes = {
  listBundles: { method: 'GET', url: '/v1/bundles', summary: 'Runtime bundles', response: z.array(Bundle) },
  buildBundle: {
    method: 'POST',
    url: '/v1/bundles/build',
    summary: 'Build a runtime bundle from Debian packages',
    body: BundleBuild,
    response: Operation,
    status: 202,
  },
  showBundle: {
    method: 'GET',
    url: '/v1/bundles/show',
    summary: 'One runtime bundle, in detail',
    // a path does not fit into an address's segment
    query: z.object({ name: BundleRef.optional() }),
    response: BundleDetail,
  },
  useBundle: {
    method: 'POST',
    url: '/v1/bundles/use',
    summary: 'Make a runtime bundle the default one',
    body: BundleUse,
    response: Bundle,
  },
  verifyBundle: {
    method: 'POST',
    url: '/v1/bundles/verify',
    summary: 'Check a runtime bundle’s sums and whether it can boot here',
    body: BundleVerify,
    response: Operation,
    status: 202,
  },
  importBundle: {
    method: 'POST',
    url: '/v1/bundles/import',
    summary: 'Bring a runtime bundle into the bundle store, verified',
    body: BundleImport,
    response: Operation,
    status: 202,
  },
  exportBundle: {
    method: 'POST',
    url: '/v1/bundles/export',
    summary: 'Write a runtime bundle as one file',
    body: BundleExport,
    response: Operation,
    status: 202,
  },
  adoptBundle: {
    method: 'POST',
    url: '/v1/bundles/adopt',
    summary: 'Write the bundle.json of a directory that has none',
    body: BundleAdopt,
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
