/** `banger image show`: one image in full, with who needs it. */
import type { ImageDetail } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields } from '../../output/table.ts';

const SBOM_FORMATS = ['spdx', 'cyclonedx'];

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['image'] },
  options: {
    sbom: { type: 'text', choices: SBOM_FORMATS, help: 'print a bill of materials of its packages instead, as JSON' },
  },
  examples: ['image show dev', 'image show dev --json', 'image show dev --sbom spdx > dev.spdx.json'],
  async run(ctx, { args: { name }, options: { sbom } }) {
    const params = { name };
    if (sbom === undefined) return await ctx.api.call('showImage', { params });
    return await ctx.api.call('showSbom', { params, query: { format: sbom as 'spdx' } });
  },
  print(found, ctx, { sbom }) {
    if (sbom !== undefined) return JSON.stringify(found, null, 2);
    const image = found as ImageDetail;
    if (image.problem !== null) ctx.warn(`${image.name} cannot be used: ${image.problem}`);
    return renderImage(image, ctx.paint);
  },
});

function renderImage(image: ImageDetail, paint: Paint): string {
  const list = (names: readonly string[]) => (names.length === 0 ? null : names.join(' '));
  const fields: [string, string | null][] = [
    ['name', image.name],
    ['id', image.id],
    ['arch', image.arch],
    ['base', image.base],
    ['created', image.createdAt],
    ['size', `${formatSize(image.sizeBytes)}, ${formatSize(image.allocatedBytes)} on disk`],
    ['digest', image.digest],
    ['root disk', image.rootfs],
    ['kernel', image.kernel],
    ['initrd', image.initrd],
    ['packages', image.packages === null ? null : `${image.packageCount} in ${image.packages}`],
    ...renderOci(image.oci),
    ['recipe', image.recipe === null ? null : JSON.stringify(image.recipe)],
    ['used by', list(image.usedBy)],
    ['in the trash', list(image.trashed)],
    ['templates', image.templates === 0 ? null : `${image.templates}, see: banger image warm --list`],
    ['layers', image.layers === 0 ? null : String(image.layers)],
  ];
  return renderFields(
    fields.filter((field): field is [string, string] => field[1] !== null),
    paint,
  );
}

/** What it was as an OCI image. */
function renderOci(oci: ImageDetail['oci']): [string, string | null][] {
  if (oci === null) return [];
  const words = (list: readonly string[]) => (list.length === 0 ? null : JSON.stringify(list));
  const listed = (list: readonly string[]) => (list.length === 0 ? null : list.join(' '));
  const labels = Object.entries(oci.labels).map(([name, value]) => `${name}=${value}`);
  return [
    ['from', `${oci.reference} (${oci.digest})`],
    ['platform', oci.platform],
    ['entrypoint', words(oci.entrypoint)],
    ['cmd', words(oci.cmd)],
    ['user', oci.user || null],
    ['workdir', oci.workdir],
    ['stop signal', oci.stopSignal],
    ['exposes', listed(oci.ports)],
    ['volumes', listed(oci.volumes)],
    ['health check', oci.healthcheck === null ? null : words(oci.healthcheck)],
    ['labels', listed(labels)],
  ];
}
