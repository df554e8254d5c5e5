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
      help: 'kernel for an ext4 file, ELF or bzImage; with --initrd',
    },
    initrd: { type: 'text', placeholder: 'file', completes: ['file'], help: 'initrd with the modules of that kernel' },
    bundle: {
      type: 'text',
      placeholder: 'bundle',
      completes: ['bundle', 'directory'],
      help: 'bundle whose kernel and initrd an ext4 file gets',
      default: 'the default bundle',
    },
    force: { type: 'flag', short: 'f', help: 'replace an image of that name; VMs made from it keep what they have' },
  },
  description: 'The file is what `banger image export` wrote, or an ext4 file system, which gets a kernel and initrd.',
  examples: [
    'image import dev.tar.zst',
    'image import rootfs.ext4 --name mine',
    'image import rootfs.ext4 --kernel vmlinux --initrd initrd.img',
  ],
  async run(ctx, { args, options }) {
    const path = (file: string) => resolve(ctx.terminal.cwd, file);
    const { name, kernel, initrd, bundle, force } = options;
    const body = {
      source: path(args.file),
      name,
      ...(kernel === undefined ? {} : { kernel: path(kernel) }),
      ...(initrd === undefined ? {} : { initrd: path(initrd) }),
      ...(bundle === undefined ? {} : { bundle: bundleRef(ctx, bundle) }),
      ...(force ? { force } : {}),
    };
    const { result } = await perform(ctx, `import ${args.file}`, () => ctx.api.call('importImage', { body }));
    const image = result as Image;
    ctx.say(`${image.name} is ready; make a VM from it with: banger run NAME --image ${image.name}`);
    return image;
  },
});
