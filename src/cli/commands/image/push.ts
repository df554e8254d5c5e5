/** `banger image push`: an image as an OCI image, for registries and everything that reads them. */
import { resolve } from 'node:path';
import type { ImagePushed } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { absoluteReference, authFileFrom } from '../../shared/oci.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'reference'],
  completes: { name: ['image'] },
  options: {
    authFile: {
      type: 'text',
      placeholder: 'file',
      completes: ['file'],
      help: 'file with credentials, as `skopeo login` writes it',
    },
    insecure: { type: 'flag', help: 'speak to the registry without TLS if need be; on this machine that is always so' },
  },
  description:
    'The reference is that of a registry, or a file that is not there yet: `oci-archive:FILE`, `docker-archive:FILE`, `oci:DIR`. All files ' +
    'become one layer, the same bytes each time; kernel and initrd stay here. `image pull` makes an image of it again.',
  examples: ['image push dev ghcr.io/org/dev:1', 'image push dev oci-archive:dev.tar'],
  async run(ctx, { args: { name, reference }, options: { authFile, insecure } }) {
    const auth = authFile === undefined ? authFileFrom(ctx.terminal.env) : resolve(ctx.terminal.cwd, authFile);
    const body = {
      reference: absoluteReference(ctx, reference),
      ...(auth === undefined ? {} : { authFile: auth }),
      ...(insecure ? { insecure } : {}),
    };
    const { result } = await perform(ctx, `push ${name}`, () => ctx.api.call('pushImage', { params: { name }, body }));
    const pushed = result as ImagePushed;
    ctx.say(`${name} is at ${pushed.reference} (${formatSize(pushed.sizeBytes)})`);
    ctx.say(`${pushed.digest}, its files ${pushed.tree}`);
    return pushed;
  },
});
