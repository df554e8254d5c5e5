/** Colour where a terminal wants it, and nowhere else. */
import { styleText } from 'node:util';
import type { Output } from '../terminal.ts';

export type Colour = 'red' | 'green' | 'yellow' | 'cyan' | 'dim' | 'bold';

/** Dresses a text; the identity where colour is not wanted. */
export type Paint = (colour: Colour, text: string) => string;

/** NO_COLOR and FORCE_COLOR decide if set (no-color.org, force-color.org), else whether it is a terminal. */
export function createPaint(output: Output, env: NodeJS.ProcessEnv): Paint {
  const wanted = isSet(env.NO_COLOR) ? false : isSet(env.FORCE_COLOR) || (output.isTTY === true && env.TERM !== 'dumb');
  if (!wanted) return (_, text) => text;
  return (colour, text) => styleText(colour, text, { validateStream: false });
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && value !== '';
}
