/** What people call OCI images on the command line. */
import { resolve } from 'node:path';
import type { ImagePull } from '../../api/image.ts';
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

/** Where the person's own programs look for credentials, if that is elsewhere than usual. */
export function authFileFrom(env: NodeJS.ProcessEnv): string | undefined {
  if (env.REGISTRY_AUTH_FILE) return resolve(env.REGISTRY_AUTH_FILE);
  return env.DOCKER_CONFIG ? resolve(env.DOCKER_CONFIG, 'config.json') : undefined;
}

/** The word as given; the parser let only those of `choices` through. */
export function pullPolicy(word: string): NonNullable<ImagePull['policy']> {
  return word as NonNullable<ImagePull['policy']>;
}
