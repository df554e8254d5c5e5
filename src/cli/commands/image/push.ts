/** `banger image push`: an image as an OCI image, for registries and everything that reads them. */
import type { ImagePushed } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { absoluteReference, REGISTRY_OPTIONS, registryAccess } from '../../shared/oci.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'reference'],
  completes: { name: ['image'] },
  options: {
    ...REGISTRY_OPTIONS,
  },
  description:
    'The reference is that of a registry, or a file that is not there yet: `oci-archive:FILE`, `docker-archive:FILE`, `oci:DIR`. All files ' +
    'become one layer, the same bytes each time; kernel and initrd stay here. `image pull` makes an image of it again.',
  examples: ['image push dev ghcr.io/org/dev:1', 'image push dev oci-archive:dev.tar'],
  async run(ctx, { args: { name, reference }, options }) {
    const body = {
      reference: absoluteReference(ctx, reference),
      ...registryAccess(ctx, options),
    };
    const { result } = await perform(ctx, `push ${name}`, () => ctx.api.call('pushImage', { params: { name }, body }));
    const pushed = result as ImagePushed;
    ctx.say(`${name} is at ${pushed.reference} (${formatSize(pushed.sizeBytes)})`);
    ctx.say(`${pushed.digest}, its files ${pushed.tree}`);
    return pushed;
  },
});
