/** Handlers for building images. */
import { buildImage, validateRecipe } from '../../control/builds/build-image.ts';
import { pullBase } from '../../control/builds/oci-base.ts';
import { missingBase, resolveBuild } from '../../control/builds/plan.ts';
import type { Host } from '../../control/host.ts';
import type { Life } from '../../control/vm/life.ts';
import { commandLine } from '../../system/runner.ts';
import type { Handlers } from '../server.ts';

type ImageBuildHandlers = Pick<Handlers, 'buildImage' | 'validateRecipe'>;

export function imageBuildHandlers(host: Host, life: Life): ImageBuildHandlers {
  return {
    validateRecipe: async ({ body }) => await validateRecipe(host, body),
    buildImage: async ({ body }) => {
      // a recipe that is wrong is told before there is an operation; what only its base can tell, when that is here
      const missing = await missingBase(host, body);
      const request = missing ? undefined : await resolveBuild(host, body);
      const name = (missing ?? request)?.name ?? '';
      return host.operations.start({
        kind: 'image.build',
        target: `image ${name}`,
        attended: !body.detach,
        run: async (progress, signal) => {
          const replaces = host.stores.images.find(name)?.id;
          if (missing) await pullBase(host, missing.reference, body, progress, signal);
          return await buildImage(
            host,
            request ?? (await resolveBuild(host, body)),
            {
              replaces,
              noCache: body.noCache ?? false,
              keep: body.keep ?? false,
              onKept: (vm) => life.adopt(vm),
              again: body.recipe ? commandLine(['banger', 'image', 'build', body.recipe]) : undefined,
            },
            progress,
            signal,
          );
        },
      });
    },
  };
}
