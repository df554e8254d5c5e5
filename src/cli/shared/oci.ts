/** What people call OCI images on the command line. */
import { resolve } from 'node:path';
import type { ImagePull } from '../../api/image.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';

/** Whether `--image` names an image of a registry or file, and not one of banger's: those have no slash and no colon. */
export function isOciReference(image: string): boolean {
  return /^(?:oci-archive|docker-archive|oci|docker):/.test(image) || (/[/:@]/.test(image) && !/^[./~]/.test(image));
}

/** Paths in it count from where the person is; the daemon is somewhere else. */
export function absoluteReference(ctx: Pick<Context, 'terminal'>, reference: string): string {
  const [, transport, path] = /^(oci-archive|docker-archive|oci):(.+)$/s.exec(reference) ?? [];
  return transport === undefined || path === undefined ? reference : `${transport}:${resolve(ctx.terminal.cwd, path)}`;
}

/** What a registry is reached with. */
export const REGISTRY_OPTIONS = {
  authFile: {
    type: 'text',
    placeholder: 'file',
    completes: ['file'],
    help: 'file with credentials, as `skopeo login` writes it',
  },
  insecure: { type: 'flag', help: 'speak to the registry without TLS if need be; on this machine that is always so' },
} as const satisfies OptionSpecs;

/** Where the person's own programs look for credentials, if that is elsewhere than usual. */
function authFileFrom(env: NodeJS.ProcessEnv): string | undefined {
  if (env.REGISTRY_AUTH_FILE) return resolve(env.REGISTRY_AUTH_FILE);
  return env.DOCKER_CONFIG ? resolve(env.DOCKER_CONFIG, 'config.json') : undefined;
}

/** What of a request says how the registry is reached. */
export function registryAccess(
  ctx: Pick<Context, 'terminal'>,
  { authFile, insecure }: { authFile?: string | undefined; insecure?: boolean | undefined },
): { authFile?: string; insecure?: boolean } {
  const { cwd, env } = ctx.terminal;
  const auth = authFile === undefined ? authFileFrom(env) : resolve(cwd, authFile);
  return { ...(auth === undefined ? {} : { authFile: auth }), ...(insecure ? { insecure } : {}) };
}

/** The word as given; the parser let only those of `choices` through. */
export function pullPolicy(word: string): NonNullable<ImagePull['policy']> {
  return word as NonNullable<ImagePull['policy']>;
}
