/** `banger image import`: an image made elsewhere, or a root file system of one's own, seen only when all was right. */
import { resolve } from 'node:path';
import type { Image } from '../../../api/image.ts';
import { defineCommand } from '../../command.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['file'],
  completes: { file: ['file'] },
  options: {
    name: {
      type: 'text',
      placeholder: 'name',
      help: 'name to give it',
      default: 'the one in the archive, or the file’s',
    },
    kernel: {
      type: 'text',
      placeholder: 'file',
      completes: ['file'],
      help: 'kernel for a disk or root file system, ELF or bzImage; with --initrd',
    },
    initrd: { type: 'text', placeholder: 'file', completes: ['file'], help: 'initrd with the modules of that kernel' },
    bundle: {
      type: 'text',
      placeholder: 'bundle',
      completes: ['bundle', 'directory'],
      help: 'bundle whose kernel and initrd it gets',
      default: 'its own kernel where that fits, else the default bundle',
    },
    partition: {
      type: 'count',
      help: 'partition of a disk that has the root file system',
      default: 'found',
    },
    force: { type: 'flag', short: 'f', help: 'replace an image of that name; VMs made from it keep what they have' },
  },
  description:
    'The file is what `banger image export` wrote, a disk (raw or qcow2) such as clouds have, or a root file system (ext4, XFS, btrfs).',
  examples: [
    'image import dev.tar.zst',
    'image import rootfs.ext4 --name mine',
    'image import debian-12-genericcloud-amd64.qcow2 --name debian',
    'image import rootfs.ext4 --kernel vmlinux --initrd initrd.img',
  ],
  async run(ctx, { args, options }) {
    const path = (file: string) => resolve(ctx.terminal.cwd, file);
    const { name, kernel, initrd, bundle, partition, force } = options;
    const body = {
      source: path(args.file),
      name,
      ...(kernel === undefined ? {} : { kernel: path(kernel) }),
      ...(initrd === undefined ? {} : { initrd: path(initrd) }),
      ...(bundle === undefined ? {} : { bundle: bundleRef(ctx, bundle) }),
      ...(partition === undefined ? {} : { partition }),
      ...(force ? { force } : {}),
    };
    const { result } = await perform(ctx, `import ${args.file}`, () => ctx.api.call('importImage', { body }));
    const image = result as Image;
    ctx.say(`${image.name} is ready; make a VM from it with: banger run NAME --image ${image.name}`);
    return image;
  },
});
