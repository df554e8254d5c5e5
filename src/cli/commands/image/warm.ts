/** `banger image warm`: a template of an image or bundle, from which VMs start instead of booting. */
import type { ImageWarmed, Template } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { type Cell, renderTable } from '../../output/table.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';
import { perform } from '../../shared/operations.ts';
import { VM_OPTIONS } from '../../shared/vm-options.ts';

export default defineCommand({
  positionals: ['[name]'],
  completes: { name: ['image', 'bundle'] },
  options: {
    vcpus: VM_OPTIONS.vcpus,
    memory: VM_OPTIONS.memory,
    disk: { type: 'size', help: 'size of the root disk; VMs with larger ones may start from it too' },
    workDisk: VM_OPTIONS.workDisk,
    workMount: VM_OPTIONS.workMount,
    nat: { type: 'off', help: 'for VMs that reach nothing outside this host' },
    list: { type: 'flag', help: 'list the templates there are' },
    forget: { type: 'flag', help: 'remove its templates instead; VMs that run go on' },
  },
  description:
    'Boots a VM of it once and keeps it as it stands then: new VMs of the same size (`banger run`) start from there in a ' +
    'fraction of the time. Without a name: of the default bundle. banger does this by itself after the first boot of an image ' +
    'unless `warm.automatic` is off.',
  examples: ['image warm', 'image warm dev --memory 2G', 'image warm --list', 'image warm dev --forget'],
  async run(ctx, { args: { name }, options }) {
    const image = name === undefined ? {} : { image: bundleRef(ctx, name) };
    if (options.list) return await ctx.api.call('listTemplates', {});
    if (options.forget) {
      const removed = await ctx.api.call('coolImage', { body: image });
      const what = removed.length === 1 ? '1 template is' : `${removed.length} templates are`;
      ctx.say(`${what} removed (${formatSize(removed.reduce((sum, { bytes }) => sum + bytes, 0))})`);
      return removed;
    }
    const { vcpus, memory, disk, workDisk, workMount, nat } = options;
    const body = {
      ...image,
      ...(vcpus === undefined ? {} : { vcpus }),
      ...(memory === undefined ? {} : { memoryMib: memory }),
      ...(disk === undefined ? {} : { rootDiskBytes: disk }),
      ...(workDisk === undefined ? {} : { workDiskBytes: workDisk }),
      ...(workMount === undefined ? {} : { workMount }),
      ...(nat ? { nat: false } : {}),
    };
    const { result } = await perform(ctx, 'warm', () => ctx.api.call('warmImage', { body }));
    const template = result as ImageWarmed;
    ctx.say(
      template.made
        ? `VMs of ${template.image} with ${shapeOf(template)} start from a template now (${formatSize(template.bytes)} on disk)`
        : `${template.image} has a template for ${shapeOf(template)} already`,
    );
    return template;
  },
  print(data, ctx, { list }) {
    if (!list || !Array.isArray(data)) return '';
    if (data.length === 0) {
      ctx.talk('No templates yet. Make one with: banger image warm');
      return '';
    }
    const header = ['IMAGE', 'CPU', 'MEM', 'DISK', 'WORK DISK', 'ON DISK', 'LAST USED', ''];
    return renderTable(
      header,
      data.map((template) => row(template, ctx)),
      ctx.paint,
    );
  },
});

function row(template: Template, ctx: Context): Cell[] {
  const { image, vcpus, memoryMib, rootDiskBytes, workDiskBytes, bytes, usedAt, nat, misfits } = template;
  const trouble = misfits.length === 0 ? '' : `of no use now: ${misfits.join('; ')}`;
  return [
    ...[image, String(vcpus), `${memoryMib} MiB`, formatSize(rootDiskBytes)],
    ...[workDiskBytes === 0 ? '-' : formatSize(workDiskBytes), formatSize(bytes)],
    usedAt.slice(0, 16).replace('T', ' '),
    trouble === ''
      ? nat
        ? ''
        : 'without a way to the outside'
      : { text: trouble, paint: (text) => ctx.paint('red', text) },
  ];
}

function shapeOf({ vcpus, memoryMib }: Pick<Template, 'vcpus' | 'memoryMib'>): string {
  return `${vcpus} ${vcpus === 1 ? 'processor' : 'processors'} and ${memoryMib} MiB`;
}
