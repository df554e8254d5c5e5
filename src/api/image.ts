/** Images, and giving a VM another one: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';
import { named, Until } from './vm.ts';

/** Images are named as VMs are. */
const ImageName = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'must be a DNS label: a-z, 0-9 and inner dashes, at most 63 characters')
  .describe('name of an image: a DNS label (RFC 1123)');

export const ImageDigest = z
  .string()
  .describe(
    'of the root file system: `fsverity-sha256:HEX`, its fs-verity digest; `sha256:HEX` when an older banger registered the image',
  );

/** What VMs of an image or bundle may start from instead of booting. */
export const Template = z.object({
  id: z.string().describe('8 hexadecimal digits'),
  image: z.string().describe('name of the image or bundle'),
  vcpus: z.int(),
  memoryMib: z.int(),
  rootDiskBytes: z.number().describe('VMs with larger root disks may start from it'),
  workDiskBytes: z.number().describe('the same of work disks; 0 for VMs without one'),
  workDiskMount: z.string().nullable(),
  nat: z.boolean().describe('for VMs that reach the outside, or for those that do not'),
  bytes: z.number().describe('what it takes on the host’s disk'),
  createdAt: z.iso.datetime(),
  usedAt: z.iso.datetime().describe('when a VM last started from it, or when it was made'),
  misfits: z.array(z.string()).describe('why no VM can start from it here and now, each a clause; empty when they can'),
});

export const Image = z.object({
  id: z.string().describe('8 hexadecimal digits, unchanged for the life of the image'),
  name: z.string(),
  arch: z.string(),
  base: z.string().describe('image or bundle it was made from; `import` when it was brought in with its own kernel'),
  digest: ImageDigest,
  sizeBytes: z.number().describe('apparent size of the root file system'),
  allocatedBytes: z.number().describe('bytes really used on the host, kernel and initrd included'),
  createdAt: z.iso.datetime(),
  usedBy: z.array(z.string()).describe('names of the VMs made from it'),
  problem: z.string().nullable().describe('why no VM can be made from it, if so'),
  templates: z.int().describe('how many templates there are that VMs made from it may start from'),
});

export const ImageDetail = Image.extend({
  directory: z.string().describe('absolute path, as all below'),
  rootfs: z.string(),
  kernel: z.string(),
  initrd: z.string(),
  packages: z.string().nullable().describe('list of the packages in the root file system'),
  packageCount: z.int().nullable(),
  recipe: z
    .unknown()
    .describe('what it was built from, of its environment the names alone; null when it was brought in'),
  trashed: z.array(z.string()).describe('names of deleted VMs that can still be restored and then need it'),
  layers: z.int().describe('layers of image builds that begin with it'),
  oci: z
    .object({
      reference: z.string(),
      digest: z.string().describe('of what the reference led to when it was pulled'),
      platform: z.string(),
      entrypoint: z.array(z.string()),
      cmd: z.array(z.string()),
      env: z.array(z.string()),
      user: z.string(),
      workdir: z.string(),
      stopSignal: z.string(),
      ports: z.array(z.string()),
      volumes: z.array(z.string()),
      labels: z.record(z.string(), z.string()),
      healthcheck: z.array(z.string()).nullable(),
    })
    .nullable()
    .describe('what it was as an OCI image; null when it was none'),
});

const ImageWarm = z.strictObject({
  image: z.string().min(1).optional().describe('image or bundle; the configured default otherwise'),
  vcpus: z.int().min(1).max(32).optional(),
  memoryMib: z.int().min(64).optional(),
  rootDiskBytes: z.int().positive().optional(),
  workDiskBytes: z.int().nonnegative().optional().describe('0 for VMs without one'),
  workMount: z.string().optional(),
  nat: z.boolean().optional().describe('whether these VMs reach the outside; default true'),
});

/** Result of an `image.warm` operation. */
export const ImageWarmed = Template.extend({ made: z.boolean().describe('false when there was such a template') });

const ImageCool = z.strictObject({
  image: z.string().min(1).optional().describe('image or bundle; the configured default otherwise'),
});

const ImageRename = z.strictObject({ name: ImageName.describe('new name') });

export const ImageImport = z.strictObject({
  source: z
    .string()
    .startsWith('/')
    .describe('archive made by `image export`, disk (raw or qcow2), or root file system'),
  name: ImageName.optional().describe('default: the one in the archive, or that of the file'),
  force: z.boolean().optional().describe('replace an image of that name'),
  kernel: z.string().startsWith('/').optional().describe('kernel for a disk or root file system, ELF or bzImage'),
  initrd: z.string().startsWith('/').optional().describe('initrd that goes with the kernel'),
  bundle: z.string().min(1).optional().describe('bundle whose kernel and initrd a disk or root file system gets'),
  partition: z.int().min(1).max(1024).optional().describe('number of the partition with the root file system'),
});

export const ImagePull = z.strictObject({
  reference: z
    .string()
    .min(1)
    .max(4096)
    .describe('e.g. `docker.io/library/alpine:3.20`, `oci-archive:/FILE`, `docker-archive:/FILE`, `oci:/DIRECTORY`'),
  name: ImageName.optional().describe('default: made of the reference'),
  platform: z.string().max(60).optional().describe('e.g. `linux/amd64`; default: that of this machine'),
  policy: z
    .enum(['always', 'missing', 'never'])
    .optional()
    .describe(
      '`missing`, the default: fetched when it is not here; `always`: when the tag has moved; `never`: not at all',
    ),
  force: z.boolean().optional().describe('replace an image of that name'),
  insecure: z.boolean().optional().describe('whether a registry may be spoken to without TLS; on this machine always'),
  authFile: z.string().startsWith('/').optional().describe('file with credentials, in the form of `auth.json`'),
  bundle: z.string().min(1).optional().describe('bundle whose kernel and initrd it gets'),
  diskBytes: z.int().positive().optional().describe('size of the root file system; default: its content and some room'),
});

/** Result of an `image.pull` operation. */
export const ImagePulled = Image.extend({
  pulled: z.boolean().describe('whether it was fetched; false when it was here'),
});

export const ImagePush = z.strictObject({
  reference: z
    .string()
    .min(1)
    .max(4096)
    .describe('e.g. `ghcr.io/org/dev:1`, or a file that is not there: `oci-archive:/FILE`, `oci:/DIRECTORY`'),
  insecure: z.boolean().optional().describe('whether a registry may be spoken to without TLS; on this machine always'),
  authFile: z.string().startsWith('/').optional().describe('file with credentials, in the form of `auth.json`'),
});

/** Result of an `image.push` operation. */
export const ImagePushed = z.object({
  name: z.string(),
  reference: z.string().describe('with nothing left out'),
  digest: z.string().describe('of its manifest, by which it can be pulled'),
  tree: z.string().describe('digest of its files as one plain archive; the same wherever the image is pulled to'),
  sizeBytes: z.number().describe('of its layer'),
});

const SbomFormat = z.enum(['spdx', 'cyclonedx']).describe('SPDX 2.3 or CycloneDX 1.6, as JSON');

const ImageExport = z.strictObject({
  file: z.string().startsWith('/').describe('`.tar.zst` file to write; it must not exist'),
});

/** Result of an `image.export` operation. */
export const ImageFile = z.object({ name: z.string(), file: z.string(), sizeBytes: z.number() });

const Package = z.object({ name: z.string(), version: z.string(), arch: z.string() });
const PackageState = Package.omit({ name: true });

export const ImageDiff = z.object({
  before: z.string().describe('image or bundle that was compared'),
  after: z.string(),
  added: z.array(Package),
  removed: z.array(Package),
  changed: z.array(z.object({ name: z.string(), before: PackageState, after: PackageState })),
  unchanged: z.int(),
});

export const ImagePrune = z.strictObject({
  keepBytes: z.int().nonnegative().optional().describe('remove layers until no more than this is left'),
  unusedForMs: z
    .int()
    .nonnegative()
    .optional()
    .describe('remove layers no build used for so long, and templates no VM started from'),
  all: z.boolean().optional().describe('remove every layer and every template'),
  dryRun: z.boolean().optional().describe('say what would go and remove nothing'),
});

/** Result of an `image.prune` operation. */
export const ImagePruned = z.object({
  removed: z.array(
    z.object({ key: z.string(), base: z.string(), step: z.string(), sizeBytes: z.number(), usedAt: z.string() }),
  ),
  removedBytes: z.number(),
  kept: z.int(),
  keptBytes: z.number(),
  blobs: z.int().describe('layers of OCI images that no image is made of any more'),
  blobBytes: z.number().describe('what these took'),
  templates: z
    .int()
    .describe('templates that no VM can start from any more, that none did for so long, or all of them'),
  templateBytes: z.number().describe('what these took'),
  dryRun: z.boolean(),
});

export const VmRebase = z.strictObject({
  image: z.string().min(1).describe('image or bundle the new root disk is made from'),
  force: z.boolean().optional().describe('stop the VM first when it runs'),
  start: z.boolean().optional().describe('start it to see that SSH comes up; default true'),
  timeoutMs: z
    .int()
    .positive()
    .optional()
    .describe('limit in milliseconds for the guest to answer SSH, and to be ready'),
  until: Until.optional().describe('when it ends; default `ready`'),
});

export type Image = z.infer<typeof Image>;
export type ImageDetail = z.infer<typeof ImageDetail>;
export type ImageImport = z.infer<typeof ImageImport>;
export type ImagePull = z.infer<typeof ImagePull>;
export type ImagePulled = z.infer<typeof ImagePulled>;
export type ImageFile = z.infer<typeof ImageFile>;
export type ImagePush = z.infer<typeof ImagePush>;
export type ImagePushed = z.infer<typeof ImagePushed>;
export type ImageDiff = z.infer<typeof ImageDiff>;
export type ImagePrune = z.infer<typeof ImagePrune>;
export type Template = z.infer<typeof Template>;
export type ImageWarmed = z.infer<typeof ImageWarmed>;
export type ImagePruned = z.infer<typeof ImagePruned>;
export type VmRebase = z.infer<typeof VmRebase>;

const image = z.object({ name: ImageName });

export const imageRoutes = {
  listImages: { method: 'GET', url: '/v1/images', summary: 'All images, by name', response: z.array(Image) },
  showImage: {
    method: 'GET',
    url: '/v1/images/:name',
    summary: 'One image, in detail',
    params: image,
    response: ImageDetail,
  },
  showSbom: {
    method: 'GET',
    url: '/v1/images/:name/sbom',
    summary: 'Bill of materials of an image',
    params: image,
    query: z.object({ format: SbomFormat }),
    response: z.record(z.string(), z.unknown()),
  },
  deleteImage: {
    method: 'DELETE',
    url: '/v1/images/:name',
    summary: 'Delete an image no VM and no layer needs',
    params: image,
    response: Operation,
    status: 202,
  },
  renameImage: {
    method: 'POST',
    url: '/v1/images/:name/rename',
    summary: 'Give an image another name',
    params: image,
    body: ImageRename,
    response: Operation,
    status: 202,
  },
  importImage: {
    method: 'POST',
    url: '/v1/images/import',
    summary: 'Bring in an image, verified',
    body: ImageImport,
    response: Operation,
    status: 202,
  },
  pullImage: {
    method: 'POST',
    url: '/v1/images/pull',
    summary: 'Make an image of an OCI image',
    body: ImagePull,
    response: Operation,
    status: 202,
  },
  pushImage: {
    method: 'POST',
    url: '/v1/images/:name/push',
    summary: 'Write an image as an OCI image',
    params: image,
    body: ImagePush,
    response: Operation,
    status: 202,
  },
  exportImage: {
    method: 'POST',
    url: '/v1/images/:name/export',
    summary: 'Write an image as one file',
    params: image,
    body: ImageExport,
    response: Operation,
    status: 202,
  },
  pruneImages: {
    method: 'POST',
    url: '/v1/images/prune',
    summary: 'Remove layers of image builds',
    body: ImagePrune,
    response: Operation,
    status: 202,
  },
  listTemplates: {
    method: 'GET',
    url: '/v1/templates',
    summary: 'What VMs may start from instead of booting, oldest first',
    response: z.array(Template),
  },
  warmImage: {
    method: 'POST',
    url: '/v1/templates',
    summary: 'Make a template of an image or bundle, from which VMs of this size start',
    body: ImageWarm,
    response: Operation,
    status: 202,
  },
  coolImage: {
    method: 'POST',
    url: '/v1/templates/remove',
    summary: 'Remove the templates of an image or bundle; running VMs go on',
    body: ImageCool,
    response: z.array(Template),
  },
  diffImages: {
    method: 'GET',
    // not below /v1/images, where it would be the name of an image
    url: '/v1/image-diff',
    summary: 'Packages added, removed and changed between two images or bundles',
    query: z.object({ before: z.string().min(1), after: z.string().min(1) }),
    response: ImageDiff,
  },
  rebaseVm: {
    method: 'POST',
    url: '/v1/vms/:name/rebase',
    summary: 'Give a VM a new root disk from another image; undone when SSH does not come up',
    params: named,
    body: VmRebase,
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
