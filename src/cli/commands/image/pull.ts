/** `banger image pull`: an OCI image becomes an image that VMs are made from. */
import type { ImagePulled } from '../../../api/image.ts';
import { defineCommand } from '../../command.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';
import { absoluteReference, pullPolicy, REGISTRY_OPTIONS, registryAccess } from '../../shared/oci.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['reference'],
  options: {
    name: { type: 'text', placeholder: 'name', help: 'name to give it', default: 'made of the reference' },
    platform: { type: 'text', placeholder: 'os/arch', help: 'for which machines', default: 'this one' },
    policy: {
      type: 'text',
      placeholder: 'when',
      choices: ['always', 'missing', 'never'],
      help: 'fetch it when its tag has moved, when it is not here, or not at all',
      default: 'missing',
    },
    disk: { type: 'size', help: 'size of the root file system', default: 'its content and some room' },
    bundle: {
      type: 'text',
      placeholder: 'bundle',
      completes: ['bundle', 'directory'],
      help: 'bundle whose kernel and initrd it gets',
      default: 'the default bundle',
    },
    ...REGISTRY_OPTIONS,
    force: { type: 'flag', short: 'f', help: 'replace an image of that name; VMs made from it keep what they have' },
  },
  description:
    'A reference is that of a registry, or `oci-archive:FILE`, `docker-archive:FILE` (what `docker save` writes), `oci:DIR`. It is ' +
    'fetched by skopeo, checked by its digests, and written into a root file system; nothing of it is unpacked or run on this host.',
  examples: [
    'image pull docker.io/library/alpine:3.20',
    'image pull ghcr.io/org/app:1.4 --name app',
    'image pull docker-archive:app.tar --name app',
  ],
  async run(ctx, { args, options }) {
    const { name, platform, policy, disk, bundle, force } = options;
    const body = {
      reference: absoluteReference(ctx, args.reference),
      ...(name === undefined ? {} : { name }),
      ...(platform === undefined ? {} : { platform }),
      ...(policy === undefined ? {} : { policy: pullPolicy(policy) }),
      ...(disk === undefined ? {} : { diskBytes: disk }),
      ...(bundle === undefined ? {} : { bundle: bundleRef(ctx, bundle) }),
      ...registryAccess(ctx, options),
      ...(force ? { force } : {}),
    };
    const { result } = await perform(ctx, `pull ${args.reference}`, () => ctx.api.call('pullImage', { body }));
    const image = result as ImagePulled;
    if (image.pulled) ctx.say(`${image.name} is ready; make a VM from it with: banger run NAME --image ${image.name}`);
    else ctx.say(`${image.name} is here already`);
    return image;
  },
});
