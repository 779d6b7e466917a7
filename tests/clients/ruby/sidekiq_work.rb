# The jobs of sidekiq_jobs.rb, and where their Redis is.
require "sidekiq"
require "sidekiq/api"

# With REDIS_CA (a file of PEM) the port speaks TLS, verified against that authority alone.
place = "127.0.0.1:#{ENV.fetch("REDIS_PORT")}/0"
authority = ENV["REDIS_CA"]
server = authority ? { url: "rediss://#{place}", ssl_params: { ca_file: authority } } : { url: "redis://#{place}" }
Sidekiq.configure_client { |config| config.redis = server }
Sidekiq.configure_server do |config|
  config.redis = server
  # By default a first look at the scheduled jobs comes after ten seconds.
  config.options[:poll_interval_average] = 0.5
end

# Counts how often it ran for +n+, so that a second run would show.
class CountedJob
  include Sidekiq::Worker

  def perform(key, n)
    Sidekiq.redis { |redis| redis.hincrby(key, n.to_s, 1) }
  end
end

# Fails each time, and is retried by Sidekiq.
class FailingJob
  include Sidekiq::Worker

  def perform
    raise "as it should"
  end
end
