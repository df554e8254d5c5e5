/** What a route is, and the parts many share. */
import { z } from 'zod';

export interface Route {
  method: 'GET' | 'POST' | 'DELETE';
  url: string;
  summary: string;
  params?: z.ZodType;
  query?: z.ZodType;
  body?: z.ZodType;
  /** body of the success answer; absent when the answer is a stream */
  response?: z.ZodType;
  /** status of success; default 200 */
  status?: number;
  /** media type of a streamed answer */
  streams?: string;
}

/** A yes or no in a query. */
export const flag = z.stringbool().optional();
